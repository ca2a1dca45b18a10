// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_Slash_Test is StakeTest {
    uint64 private constant STAKED = 300 * DOLLAR;

    function setUp() public override {
        super.setUp();
        stake(operator, STAKED);
        addNode();
    }

    function testFuzz_TheSmallerOfTheAmountAndTheStakeIsTaken(uint64 amount, uint64 leaving) external {
        leaving = uint64(bound(leaving, 0, STAKED));
        if (leaving > 0) requestUnstake(leaving);
        uint64 expected = (amount < STAKED ? amount : STAKED) / 1000 * 1000;

        vm.expectEmit(address(registry));
        emit IStake.Slashed(operator, node, CASE, expected);
        assertEq(slash(amount), expected);

        (uint64 active, uint64 stillLeaving,) = registry.stakeOf(operator);
        assertEq(active + stillLeaving, STAKED - expected);
        assertEq(token.balanceOf(beneficiary), expected / 1000);
    }

    function testFuzz_ActiveStakeGoesFirst(uint64 amount, uint64 leaving) external {
        leaving = uint64(bound(leaving, 1000, STAKED - 1000)) / 1000 * 1000;
        amount = uint64(bound(amount, 1000, STAKED)) / 1000 * 1000;
        requestUnstake(leaving);
        uint64 active = STAKED - leaving;
        slash(amount);
        if (amount <= active) assertStake(operator, active - amount, leaving, START + UNBONDING);
        else if (amount < STAKED) assertStake(operator, 0, STAKED - amount, START + UNBONDING);
        else assertStake(operator, 0, 0, 0);
    }

    function test_LeavingStakeIsTakenUntilItIsOut() external {
        requestUnstake(STAKED);
        vm.warp(START + 10 * UNBONDING);
        assertEq(slash(STAKED), STAKED);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NothingLeaving.selector, operator, 0));
        vm.prank(operator);
        registry.unstake();
    }

    function test_OneBadNodeDoesNotStopTheOthers() external {
        bytes memory signature = signConsent(otherNodeKey, operator, otherNode);
        vm.prank(operator);
        registry.addNode(otherNode, signature);
        vm.prank(court);
        registry.endNode(node);
        slash(STAKED - MINIMUM);
        assertTrue(registry.isEligible(operator));
        assertNode(otherNode, operator, IStake.NodeStatus.Active);
    }

    function test_AnOperatorBelowTheMinimumIsNotEligible() external {
        vm.expectEmit(address(registry));
        emit IStake.EligibilityChanged(operator, false);
        slash(STAKED - MINIMUM + 1000);
        assertFalse(registry.isEligible(operator));
    }

    function test_AnEndedNodeCanStillBeSlashed() external {
        vm.prank(court);
        registry.endNode(node);
        assertEq(slash(DOLLAR), DOLLAR);
    }

    function test_ASlashOfNothingIsRecorded() external {
        slash(STAKED);
        vm.expectEmit(address(registry));
        emit IStake.Slashed(operator, node, CASE, 0);
        assertEq(slash(STAKED), 0);
    }

    function test_OnlyThatOperatorPays() external {
        stake(rival, STAKED);
        slash(type(uint64).max);
        assertStake(rival, STAKED, 0, 0);
        assertEq(token.balanceOf(address(registry)), STAKED / 1000);
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheCourt(address caller) external {
        vm.assume(caller != court);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotCourt.selector, caller, court));
        vm.prank(caller);
        registry.slash(node, DOLLAR, CASE, beneficiary);
    }

    function test_RevertWhen_TheNodeIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_UnknownNode.selector, otherNode));
        vm.prank(court);
        registry.slash(otherNode, DOLLAR, CASE, beneficiary);
    }

    function test_RevertWhen_NobodyIsToHaveIt() external {
        vm.expectRevert(IStake.Stake_ZeroAddress.selector);
        vm.prank(court);
        registry.slash(node, DOLLAR, CASE, address(0));
    }
}
