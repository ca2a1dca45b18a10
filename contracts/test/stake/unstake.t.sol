// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_Unstake_Test is StakeTest {
    function setUp() public override {
        super.setUp();
        stake(operator, 10 * DOLLAR);
    }

    function testFuzz_WhatWasAskedForIsPaidWhenItsTimeIsOver(uint64 amount, uint64 late) external {
        amount = uint64(bound(amount, 1000, 10 * DOLLAR));
        requestUnstake(amount);
        vm.warp(START + UNBONDING + bound(late, 0, 365 days));
        uint64 units = amount / 1000;
        uint64 rest = amount % 1000;

        vm.expectEmit(address(registry));
        emit IStake.Unstaked(operator, units, units * 1000);
        unstake();

        assertStake(operator, 10 * DOLLAR - amount, rest, rest == 0 ? 0 : START + UNBONDING);
        assertEq(token.balanceOf(operator), units);
    }

    function test_TheRestGoesOutWithTheNextRequest() external {
        requestUnstake(1999);
        vm.warp(START + UNBONDING);
        unstake();
        requestUnstake(1);
        vm.warp(START + 2 * UNBONDING);
        unstake();
        assertStake(operator, 10 * DOLLAR - 2000, 0, 0);
        assertEq(token.balanceOf(operator), 2);
    }

    function test_NothingIsPaidTwice() external {
        requestUnstake(DOLLAR);
        vm.warp(START + UNBONDING);
        unstake();
        expectRefusal(abi.encodeWithSelector(IStake.Stake_NothingLeaving.selector, operator, 0));
    }

    function testFuzz_RevertWhen_ItsTimeIsNotOver(uint64 wait) external {
        requestUnstake(DOLLAR);
        vm.warp(START + bound(wait, 0, UNBONDING - 1));
        expectRefusal(abi.encodeWithSelector(IStake.Stake_StillUnbonding.selector, operator, START + UNBONDING));
    }

    function test_RevertWhen_ASecondRequestRestartedTheClock() external {
        requestUnstake(DOLLAR);
        vm.warp(START + UNBONDING - 1);
        requestUnstake(1);
        vm.warp(START + UNBONDING);
        expectRefusal(abi.encodeWithSelector(IStake.Stake_StillUnbonding.selector, operator, START + 2 * UNBONDING - 1));
    }

    function test_RevertWhen_LessThanAUnitIsLeaving() external {
        requestUnstake(999);
        vm.warp(START + UNBONDING);
        expectRefusal(abi.encodeWithSelector(IStake.Stake_NothingLeaving.selector, operator, 999));
    }

    function test_RevertWhen_ACaseIsOpen() external {
        requestUnstake(DOLLAR);
        lock();
        lock();
        vm.warp(START + UNBONDING);
        expectRefusal(abi.encodeWithSelector(IStake.Stake_IsLocked.selector, operator, 2));
        unlock();
        expectRefusal(abi.encodeWithSelector(IStake.Stake_IsLocked.selector, operator, 1));
        unlock();
        unstake();
        assertEq(token.balanceOf(operator), DOLLAR / 1000);
    }

    function unstake() private {
        vm.prank(operator);
        registry.unstake();
    }

    function expectRefusal(bytes memory refusal) private {
        vm.expectRevert(refusal);
        unstake();
    }
}
