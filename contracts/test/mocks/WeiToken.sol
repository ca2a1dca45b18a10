// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {TestUSD} from "../../src/TestUSD.sol";

/// @notice A token whose units are not millionths.
contract WeiToken is TestUSD {
    function decimals() public pure override returns (uint8) {
        return 18;
    }
}
