// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_ReleaseBond_Test is LedgerTest {
    address internal safe = makeAddr("safe");

    function setUp() public override {
        super.setUp();
        fundBond(5 * DOLLAR);
        fund(consumer, 7 * DOLLAR, 0);
    }

    function testFuzz_TheBondAndNothingElseLeavesWhenItsTimeIsOver(uint32 later) external {
        stepDown();
        skip(uint256(BOND_RELEASE) + later);
        vm.expectEmit(address(ledger));
        emit ILedger.BondReleased(safe, 5 * UNITS, 5 * DOLLAR);
        vm.prank(owner);
        ledger.releaseBond(safe);
        assertEq(token.balanceOf(safe), 5 * UNITS);
        assertEq(token.balanceOf(address(ledger)), 7 * UNITS);
        assertEq(ledger.bond(), 0);
    }

    function test_WhatIsLessThanAUnitStays() external {
        vm.warp(ledger.epochEnd(0) + LAG + 1);
        ledger.cash(operator, 0, 1, signCheque(coordinatorKey, operator, 0, 1));
        stepDown();
        skip(BOND_RELEASE);
        vm.prank(owner);
        ledger.releaseBond(safe);
        assertEq(token.balanceOf(safe), 5 * UNITS - 1);
        assertEq(ledger.bond(), 999);
    }

    function test_RevertWhen_TheCoordinatorHasNotSteppedDown() external {
        skip(365 days);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_BondLocked.selector, 0));
        vm.prank(owner);
        ledger.releaseBond(safe);
    }

    function testFuzz_RevertWhen_TheTimeIsNotOver(uint64 after_) external {
        after_ = uint64(bound(after_, 0, BOND_RELEASE - 1));
        stepDown();
        skip(after_);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_BondLocked.selector, GENESIS + BOND_RELEASE));
        vm.prank(owner);
        ledger.releaseBond(safe);
    }

    function test_RevertWhen_ANewCoordinatorTookOver() external {
        stepDown();
        skip(BOND_RELEASE);
        vm.startPrank(owner);
        ledger.setCoordinator(stranger);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_BondLocked.selector, 0));
        ledger.releaseBond(safe);
    }

    function test_RevertWhen_TheAddressIsZero() external {
        vm.expectRevert(ILedger.Ledger_ZeroAddress.selector);
        vm.prank(owner);
        ledger.releaseBond(address(0));
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheOwner(address caller) external {
        vm.assume(caller != owner);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, caller));
        vm.prank(caller);
        ledger.releaseBond(caller);
    }

    function stepDown() private {
        vm.prank(owner);
        ledger.setCoordinator(address(0));
    }
}
