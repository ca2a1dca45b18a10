// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Stake} from "../../src/Stake.sol";
import {TestUSD} from "../../src/TestUSD.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {BlacklistToken} from "../mocks/BlacklistToken.sol";
import {FalseToken} from "../mocks/FalseToken.sol";
import {FeeToken} from "../mocks/FeeToken.sol";
import {ReentrantToken} from "../mocks/ReentrantToken.sol";
import {RevertingToken} from "../mocks/RevertingToken.sol";
import {SilentToken} from "../mocks/SilentToken.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_HostileTokens_Test is StakeTest {
    function testFuzz_WhatArrivesCountsNotWhatWasSent(uint256 feeBps, uint256 units) external {
        FeeToken fee = new FeeToken();
        fee.setFee(bound(feeBps, 0, 9999));
        deploy(fee);
        units = bound(units, 10_000, MOST_UNITS);
        give(operator, units);
        vm.prank(operator);
        registry.stake(units);
        (uint64 active,,) = registry.stakeOf(operator);
        assertEq(active, fee.balanceOf(address(registry)) * 1000);
    }

    function test_ATransferThatReturnsFalseChangesNothing() external {
        FalseToken refusing = new FalseToken();
        deploy(refusing);
        prepareExit();
        give(operator, 1);
        refusing.setRefuses(true);
        bytes memory refusal = abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(refusing));
        expectNothingMoves(refusal);
    }

    function test_ATransferThatRevertsChangesNothing() external {
        RevertingToken paused = new RevertingToken();
        deploy(paused);
        prepareExit();
        give(operator, 1);
        paused.setPaused(true);
        expectNothingMoves(abi.encodeWithSelector(RevertingToken.RevertingToken_Paused.selector));
    }

    function test_AFrozenOperatorHoldsUpNobodyElse() external {
        BlacklistToken freezing = new BlacklistToken();
        deploy(freezing);
        prepareExit();
        freezing.setFrozen(operator, true);
        vm.expectRevert(abi.encodeWithSelector(BlacklistToken.BlacklistToken_Frozen.selector, operator));
        vm.prank(operator);
        registry.unstake();

        stake(rival, MINIMUM);
        assertEq(slash(DOLLAR), DOLLAR);
        freezing.setFrozen(operator, false);
        vm.prank(operator);
        registry.unstake();
        assertEq(freezing.balanceOf(operator), DOLLAR / 1000);
    }

    function test_ATokenThatReturnsNothingIsAsGoodAsAnother() external {
        SilentToken silent = new SilentToken();
        deploy(TestUSD(address(silent)));
        silent.mint(operator, 1_000_000);
        vm.startPrank(operator);
        silent.approve(address(registry), 1_000_000);
        registry.stakeWithPermit(1_000_000, START, 27, bytes32(0), bytes32(0));
        registry.requestUnstake(DOLLAR);
        vm.warp(START + UNBONDING);
        registry.unstake();
        assertEq(silent.balanceOf(operator), 1_000_000);
    }

    function test_AStakeInsideAStakeIsRefused() external {
        ReentrantToken calling = arming(abi.encodeCall(Stake.stake, (1)));
        vm.prank(operator);
        registry.stake(DOLLAR / 1000);
        assertRefusedInside(calling);
        assertStake(operator, 2 * MINIMUM, DOLLAR, START + UNBONDING);
    }

    function test_AnUnstakeInsideAnUnstakeIsRefused() external {
        ReentrantToken calling = arming(abi.encodeCall(Stake.unstake, ()));
        vm.prank(operator);
        registry.unstake();
        assertRefusedInside(calling);
        assertEq(calling.balanceOf(operator), 2 * DOLLAR / 1000);
    }

    function test_AStakeInsideASlashIsRefused() external {
        ReentrantToken calling = arming(abi.encodeCall(Stake.stakeWithPermit, (1, 0, 0, 0, 0)));
        slash(DOLLAR);
        assertRefusedInside(calling);
        assertStake(operator, 2 * MINIMUM - 2 * DOLLAR, DOLLAR, START + UNBONDING);
    }

    /// @dev Leaves one dollar of the operator's stake payable, of twice the minimum in all.
    function prepareExit() private {
        stake(operator, 2 * MINIMUM);
        addNode();
        requestUnstake(DOLLAR);
        vm.warp(START + UNBONDING);
    }

    /// @dev Also leaves the operator with one dollar to stake.
    function arming(bytes memory data) private returns (ReentrantToken calling) {
        calling = new ReentrantToken();
        deploy(calling);
        prepareExit();
        give(operator, DOLLAR / 1000);
        calling.mint(address(calling), 1);
        calling.approveAsToken(address(registry));
        calling.arm(address(registry), data);
    }

    function assertRefusedInside(ReentrantToken calling) private view {
        assertTrue(calling.hasCalled());
        assertFalse(calling.succeeded());
        assertEq(
            calling.answer(), abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }

    function expectNothingMoves(bytes memory refusal) private {
        vm.startPrank(operator);
        vm.expectRevert(refusal);
        registry.stake(1);
        vm.expectRevert(refusal);
        registry.unstake();
        vm.stopPrank();
        vm.expectRevert(refusal);
        slash(DOLLAR);
        assertStake(operator, 2 * MINIMUM - DOLLAR, DOLLAR, START + UNBONDING);
        (, IStake.NodeStatus status) = registry.operatorOf(node);
        assertEq(uint8(status), uint8(IStake.NodeStatus.Active));
    }
}
