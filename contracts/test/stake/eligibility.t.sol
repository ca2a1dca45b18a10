// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {stdError} from "forge-std/StdError.sol";

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_Eligibility_Test is StakeTest {
    function testFuzz_AnOperatorIsEligibleFromTheMinimumOn(uint64 staked) external {
        staked = uint64(bound(staked, 1, 2 * MINIMUM / 1000)) * 1000;
        stake(operator, staked);
        assertEq(registry.isEligible(operator), staked >= MINIMUM);
        assertEq(registry.eligibleSince(operator), staked >= MINIMUM ? START : 0);
        assertEq(registry.operatorCount(), staked >= MINIMUM ? 1 : 0);
    }

    function test_ReachingAndLeavingTheMinimumIsAnnounced() external {
        stake(operator, MINIMUM - 1000);
        give(operator, 1);
        vm.expectEmit(address(registry));
        emit IStake.EligibilityChanged(operator, true);
        vm.prank(operator);
        registry.stake(1);

        vm.expectEmit(address(registry));
        emit IStake.EligibilityChanged(operator, false);
        requestUnstake(1);
    }

    function test_MoreStakeDoesNotChangeTheDate() external {
        stake(operator, MINIMUM);
        vm.warp(START + 5);
        stake(operator, MINIMUM);
        requestUnstake(MINIMUM);
        assertEq(registry.eligibleSince(operator), START);
        assertEq(registry.eligibleUntil(operator), 0);
    }

    function test_WhoLeavesWasEligibleUntilThen() external {
        assertEq(registry.eligibleUntil(operator), 0);
        stake(operator, MINIMUM);
        assertEq(registry.eligibleUntil(operator), 0);
        vm.warp(START + 5);
        requestUnstake(1);
        assertEq(registry.eligibleSince(operator), 0);
        assertEq(registry.eligibleUntil(operator), START + 5);
        vm.warp(START + 9);
        requestUnstake(1);
        assertEq(registry.eligibleUntil(operator), START + 5);
    }

    function test_TheListOnlyGrowsAndNamesNobodyTwice() external {
        stake(operator, MINIMUM);
        stake(rival, MINIMUM);
        requestUnstake(MINIMUM);
        vm.warp(START + 5);
        stake(operator, MINIMUM);
        assertEq(registry.operatorCount(), 2);
        assertEq(registry.operatorAt(0), operator);
        assertEq(registry.operatorAt(1), rival);
        assertEq(registry.eligibleSince(operator), START + 5);
    }

    function test_WhoLeavesInTheSecondOfItsArrivalStaysListed() external {
        stake(operator, MINIMUM);
        requestUnstake(MINIMUM);
        stake(operator, MINIMUM);
        assertEq(registry.operatorCount(), 1);
        requestUnstake(MINIMUM);
        vm.warp(START + 1);
        assertEq(registry.eligibleSinceAt(operator, START), 0);
    }

    function test_ThePastIsNotChangedByWhatComesLater() external {
        stake(operator, MINIMUM);
        declare(MODEL);
        vm.warp(START + 10);
        requestUnstake(MINIMUM);
        vm.warp(START + 20);
        stake(operator, MINIMUM);
        retract(MODEL);
        vm.warp(START + 30);
        declare(MODEL);
        vm.warp(START + 40);

        assertEq(registry.eligibleSinceAt(operator, START - 1), 0);
        assertEq(registry.eligibleSinceAt(operator, START + 9), START);
        assertEq(registry.eligibleSinceAt(operator, START + 10), 0);
        assertEq(registry.eligibleSinceAt(operator, START + 20), START + 20);
        assertEq(registry.servingSinceAt(operator, MODEL, START + 9), START);
        assertEq(registry.servingSinceAt(operator, MODEL, START + 19), 0);
        assertEq(registry.servingSinceAt(operator, MODEL, START + 29), 0);
        assertEq(registry.servingSinceAt(operator, MODEL, START + 39), START + 30);
        assertEq(registry.servingSinceAt(operator, OTHER_MODEL, START + 39), 0);
    }

    /// @dev Walks at random through staking, leaving, declaring and retracting, and compares every past second.
    function testFuzz_ThePastIsWhatThePresentWas(uint8[32] calldata steps) external {
        uint64[32] memory eligible;
        uint64[32] memory serving;
        for (uint64 i = 0; i < steps.length; ++i) {
            vm.warp(START + i);
            act(steps[i] % 5);
            eligible[i] = registry.eligibleSince(operator);
            serving[i] = registry.servingSince(operator, MODEL);
        }
        vm.warp(START + steps.length);
        for (uint64 i = 0; i < steps.length; ++i) {
            assertEq(registry.eligibleSinceAt(operator, START + i), eligible[i]);
            assertEq(registry.servingSinceAt(operator, MODEL, START + i), serving[i]);
        }
    }

    function testFuzz_RevertWhen_ThePastIsNotOver(uint64 time) external {
        time = uint64(bound(time, START, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotPast.selector, time));
        registry.eligibleSinceAt(operator, time);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotPast.selector, time));
        registry.servingSinceAt(operator, MODEL, time);
    }

    function test_RevertWhen_TheListHasNoSuchPlace() external {
        vm.expectRevert(stdError.indexOOBError);
        registry.operatorAt(0);
    }

    function act(uint8 step) private {
        (uint64 active,,) = registry.stakeOf(operator);
        if (step == 0) stake(operator, MINIMUM);
        else if (step == 1 && active > 0) requestUnstake(active);
        else if (step == 2) declare(MODEL);
        else if (step == 3) retract(MODEL);
    }
}
