// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_SetCoordinator_Test is LedgerTest {
    function testFuzz_TheNextOneSettlesAndTheLastOneDoesNot(uint32 after_) external {
        skip(after_);
        uint64 epoch = uint64(block.timestamp - GENESIS) / HOUR;
        set(stranger);
        assertEq(ledger.coordinator(), stranger);
        assertEq(ledger.signsBefore(stranger), type(uint64).max);
        assertEq(ledger.signsBefore(coordinator), epoch + 1 + BOND_RELEASE / HOUR);
        assertEq(ledger.bondReleasableAt(), 0);

        endEpoch(0);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NotCoordinator.selector, coordinator, stranger));
        settle(0, 0, none(), none());
        vm.prank(stranger);
        ledger.settle(0, 0, none(), noConsents(), none());
    }

    function test_SteppingDownStartsTheClockOfTheBond() external {
        vm.expectEmit(address(ledger));
        emit ILedger.CoordinatorSet(address(0), GENESIS + BOND_RELEASE);
        set(address(0));
        assertEq(ledger.coordinator(), address(0));
        assertEq(ledger.bondReleasableAt(), GENESIS + BOND_RELEASE);
        assertEq(ledger.signsBefore(address(0)), 0);
    }

    function test_ANewCoordinatorStopsTheClockOfTheBond() external {
        set(address(0));
        skip(BOND_RELEASE);
        vm.expectEmit(address(ledger));
        emit ILedger.CoordinatorSet(stranger, 0);
        set(stranger);
        assertEq(ledger.bondReleasableAt(), 0);
        assertEq(ledger.signsBefore(address(0)), 0);
    }

    function test_AFormerCoordinatorThatComesBackSignsAgain() external {
        set(stranger);
        skip(10 * HOUR);
        set(coordinator);
        assertEq(ledger.signsBefore(coordinator), type(uint64).max);
        assertEq(ledger.signsBefore(stranger), 11 + BOND_RELEASE / HOUR);
    }

    function test_BeforeTheGenesisEpochZeroCountsAsRunning() external {
        vm.warp(GENESIS - 5 * HOUR);
        set(stranger);
        assertEq(ledger.signsBefore(coordinator), 1 + BOND_RELEASE / HOUR);
    }

    function test_TheNextOneGoesOnWhereTheLastOneStopped() external {
        fund(consumer, DOLLAR, DOLLAR);
        endEpoch(0);
        settle(0, 0, one(charge(consumer, 500)), none());
        set(stranger);
        ILedger.Closing memory closing_ = closing();
        vm.prank(stranger);
        ledger.settleAndClose(0, 1, none(), noConsents(), one(payout(operator, 500)), closing_);
        assertAccount(operator, 0, 0, 0, 500);
    }

    function test_RevertWhen_ItIsNoChange() external {
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_SameCoordinator.selector, coordinator));
        set(coordinator);
        set(address(0));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_SameCoordinator.selector, address(0)));
        set(address(0));
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheOwner(address caller) external {
        vm.assume(caller != owner);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, caller));
        vm.prank(caller);
        ledger.setCoordinator(caller);
    }

    function set(address next) private {
        vm.prank(owner);
        ledger.setCoordinator(next);
    }
}
