// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_Withdraw_Test is LedgerTest {
    function testFuzz_PaysTheSmallerOfTheRequestAndTheBalance(uint64 balance, uint64 request) external {
        balance = uint64(bound(balance, 1, 1e15)) * 1000;
        request = uint64(bound(request, 1, type(uint64).max));
        fund(consumer, balance, 0);
        ask(request);
        skip(THAW);

        uint64 units = (request < balance ? request : balance) / 1000;
        vm.expectEmit(address(ledger));
        emit ILedger.Withdrawn(consumer, units, units * 1000);
        vm.prank(consumer);
        ledger.withdraw();

        assertEq(token.balanceOf(consumer), units);
        assertAccount(consumer, balance - units * 1000, 0, 0, 0);
        (uint64 amount, uint64 payableAt) = ledger.exitOf(consumer);
        assertEq(amount, 0);
        assertEq(payableAt, 0);
    }

    function test_WhatIsLessThanAUnitStays() external {
        fund(consumer, DOLLAR, DOLLAR);
        spend(1);
        ask(type(uint64).max);
        skip(THAW);
        vm.prank(consumer);
        ledger.withdraw();
        assertEq(token.balanceOf(consumer), UNITS - 1);
        assertAccount(consumer, 999, 1, 1, 0);
    }

    function test_LeavingWithEverythingTakesTheRightBack() external {
        fund(consumer, DOLLAR, 5 * DOLLAR);
        spend(300_000);
        ask(type(uint64).max);
        skip(THAW);
        vm.expectEmit(address(ledger));
        emit ILedger.Authorized(consumer, 300_000);
        vm.prank(consumer);
        ledger.withdraw();
        assertAccount(consumer, 0, 300_000, 300_000, 0);
    }

    function test_LeavingWithAPartKeepsTheRight() external {
        fund(consumer, DOLLAR, 5 * DOLLAR);
        ask(DOLLAR - 1000);
        skip(THAW);
        vm.prank(consumer);
        ledger.withdraw();
        assertAccount(consumer, 1000, 0, 5 * DOLLAR, 0);
    }

    function test_ThawingMoneyCanStillBeChargedForWhatWasUsed() external {
        fund(consumer, DOLLAR, DOLLAR);
        ask(DOLLAR);
        spend(DOLLAR / 4);
        vm.warp(GENESIS + THAW);
        vm.prank(consumer);
        ledger.withdraw();
        assertEq(token.balanceOf(consumer), UNITS * 3 / 4);
    }

    function test_AnAccountThatWasChargedEverythingLeavesWithNothingButItsRight() external {
        fund(consumer, DOLLAR, 2 * DOLLAR);
        ask(DOLLAR);
        spend(DOLLAR);
        vm.warp(GENESIS + THAW);
        vm.expectEmit(address(ledger));
        emit ILedger.Withdrawn(consumer, 0, 0);
        vm.prank(consumer);
        ledger.withdraw();
        assertAccount(consumer, 0, DOLLAR, DOLLAR, 0);
        assertEq(token.balanceOf(consumer), 0);
    }

    function test_RevertWhen_NothingWasRequested() external {
        fund(consumer, DOLLAR, 0);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NothingRequested.selector, consumer));
        vm.prank(consumer);
        ledger.withdraw();
    }

    function test_RevertWhen_ItWasPaidAlready() external {
        fund(consumer, DOLLAR, 0);
        ask(1000);
        skip(THAW);
        vm.startPrank(consumer);
        ledger.withdraw();
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NothingRequested.selector, consumer));
        ledger.withdraw();
    }

    function testFuzz_RevertWhen_TheThawIsNotOver(uint64 after_) external {
        after_ = uint64(bound(after_, 0, THAW - 1));
        fund(consumer, DOLLAR, 0);
        ask(DOLLAR);
        skip(after_);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_StillThawing.selector, consumer, GENESIS + THAW));
        vm.prank(consumer);
        ledger.withdraw();
    }

    function ask(uint64 amount) private {
        vm.prank(consumer);
        ledger.requestWithdrawal(amount);
    }

    function spend(uint64 amount) private {
        endEpoch(0);
        close(0, 0, one(charge(consumer, amount)), one(payout(operator, amount)));
    }
}
