// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {TestUSD} from "../../src/TestUSD.sol";

/// @notice A dollar whose issuer can freeze an address, as the large ones can.
contract BlacklistToken is TestUSD {
    error BlacklistToken_Frozen(address holder);

    mapping(address holder => bool) public isFrozen;

    function setFrozen(address holder, bool isFrozen_) external {
        isFrozen[holder] = isFrozen_;
    }

    function _update(address from, address to, uint256 units) internal override {
        if (isFrozen[from]) revert BlacklistToken_Frozen(from);
        if (isFrozen[to]) revert BlacklistToken_Frozen(to);
        super._update(from, to, units);
    }
}
