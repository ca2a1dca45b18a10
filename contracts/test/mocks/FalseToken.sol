// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {TestUSD} from "../../src/TestUSD.sol";

/// @notice A dollar that, once told to, moves nothing and says so only by returning false.
contract FalseToken is TestUSD {
    bool public refuses;

    function setRefuses(bool refuses_) external {
        refuses = refuses_;
    }

    function transfer(address to, uint256 units) public override returns (bool) {
        return !refuses && super.transfer(to, units);
    }

    function transferFrom(address from, address to, uint256 units) public override returns (bool) {
        return !refuses && super.transferFrom(from, to, units);
    }
}
