// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_Lock_Test is StakeTest {
    function testFuzz_OpenCasesAreCounted(uint8 opened, uint8 closed) external {
        closed = uint8(bound(closed, 0, opened));
        for (uint32 i = 1; i <= opened; ++i) {
            vm.expectEmit(address(registry));
            emit IStake.Locked(operator, i);
            lock();
        }
        for (uint32 i = 1; i <= closed; ++i) {
            vm.expectEmit(address(registry));
            emit IStake.Unlocked(operator, opened - i);
            unlock();
        }
        assertEq(registry.locksOf(operator), opened - closed);
    }

    function test_ALockDoesNotTouchTheStake() external {
        stake(operator, MINIMUM);
        requestUnstake(DOLLAR);
        lock();
        assertStake(operator, MINIMUM - DOLLAR, DOLLAR, START + UNBONDING);
        assertEq(registry.locksOf(rival), 0);
    }

    function test_RevertWhen_NoCaseIsOpen() external {
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotLocked.selector, operator));
        unlock();
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheCourt(address caller) external {
        vm.assume(caller != court);
        vm.startPrank(caller);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotCourt.selector, caller, court));
        registry.lock(operator);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotCourt.selector, caller, court));
        registry.unlock(operator);
    }
}
