// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title TestUSD
/// @notice A dollar for local networks, with 6 decimals and permits, that everybody may mint. It is worth nothing.
contract TestUSD is ERC20Permit {
    constructor() ERC20("Test USD", "TUSD") ERC20Permit("Test USD") {}

    /// @notice Makes `units` (a millionth of a dollar each) for `to`. Anybody may call.
    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    /// @notice The units of a dollar have six digits, as with the large dollar tokens.
    function decimals() public pure virtual override returns (uint8) {
        return 6;
    }
}
