// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_RequestUnstake_Test is StakeTest {
    function testFuzz_WhatIsAskedForLeavesTheActiveStake(uint64 staked, uint64 amount) external {
        staked = uint64(bound(staked, 1, MOST_UNITS)) * 1000;
        amount = uint64(bound(amount, 1, staked));
        stake(operator, staked);

        vm.expectEmit(address(registry));
        emit IStake.UnstakeRequested(operator, amount, amount, START + UNBONDING);
        requestUnstake(amount);

        assertStake(operator, staked - amount, amount, START + UNBONDING);
        assertEq(token.balanceOf(operator), 0);
    }

    function testFuzz_ASecondRequestMergesAndRestartsTheClock(uint64 first, uint64 second, uint64 wait) external {
        stake(operator, 10 * DOLLAR);
        first = uint64(bound(first, 1, 5 * DOLLAR));
        second = uint64(bound(second, 1, 5 * DOLLAR));
        wait = uint64(bound(wait, 0, 2 * UNBONDING));
        requestUnstake(first);
        vm.warp(START + wait);
        requestUnstake(second);
        assertStake(operator, 10 * DOLLAR - first - second, first + second, START + wait + UNBONDING);
    }

    function test_ALockedOperatorMayAsk() external {
        stake(operator, DOLLAR);
        lock();
        requestUnstake(DOLLAR);
        assertStake(operator, 0, DOLLAR, START + UNBONDING);
    }

    function test_RevertWhen_NothingIsAskedFor() external {
        stake(operator, DOLLAR);
        vm.expectRevert(IStake.Stake_ZeroAmount.selector);
        requestUnstake(0);
    }

    function testFuzz_RevertWhen_MoreIsAskedForThanIsActive(uint64 amount) external {
        stake(operator, 10 * DOLLAR);
        requestUnstake(4 * DOLLAR);
        amount = uint64(bound(amount, 6 * DOLLAR + 1, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_BeyondActive.selector, operator, amount, 6 * DOLLAR));
        requestUnstake(amount);
    }
}
