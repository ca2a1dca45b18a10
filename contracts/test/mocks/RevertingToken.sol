// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {TestUSD} from "../../src/TestUSD.sol";

/// @notice A dollar that stops moving once it is paused.
contract RevertingToken is TestUSD {
    error RevertingToken_Paused();

    bool public isPaused;

    function setPaused(bool isPaused_) external {
        isPaused = isPaused_;
    }

    function _update(address from, address to, uint256 units) internal override {
        if (isPaused) revert RevertingToken_Paused();
        super._update(from, to, units);
    }
}
