// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {TestUSD} from "../../src/TestUSD.sol";

/// @notice A dollar that, once armed, calls back into a contract in the middle of its next transfer, after the books of the
/// token have changed. The result of that call is kept, so that a test sees whether and why it failed.
contract ReentrantToken is TestUSD {
    address private _target;
    bytes private _data;

    bool public hasCalled;
    bool public succeeded;
    bytes public answer;

    function arm(address target, bytes calldata data) external {
        (_target, _data, hasCalled) = (target, data, false);
    }

    /// @notice Lets the contract approve this token's own balance, so that the call inside can pay.
    function approveAsToken(address spender) external {
        _approve(address(this), spender, type(uint256).max);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (_target == address(0)) return;
        address target = _target;
        _target = address(0);
        hasCalled = true;
        // The token is the caller here: the guard must hold for every caller.
        (succeeded, answer) = target.call(_data);
    }
}
