// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_RequestWithdrawal_Test is LedgerTest {
    function testFuzz_ARequestIsPayableAfterTheThaw(uint64 amount, uint32 later) external {
        amount = uint64(bound(amount, 1, type(uint64).max));
        skip(later);
        uint64 payableAt = uint64(block.timestamp) + THAW;
        vm.expectEmit(address(ledger));
        emit ILedger.WithdrawalRequested(consumer, amount, payableAt);
        vm.prank(consumer);
        ledger.requestWithdrawal(amount);
        assertExit(amount, payableAt);
    }

    function testFuzz_ANewRequestReplacesTheOldAndRestartsTheClock(uint64 old, uint64 amount, uint32 later) external {
        old = uint64(bound(old, 1, type(uint64).max));
        amount = uint64(bound(amount, 1, type(uint64).max));
        vm.startPrank(consumer);
        ledger.requestWithdrawal(old);
        skip(later);
        ledger.requestWithdrawal(amount);
        assertExit(amount, uint64(block.timestamp) + THAW);
    }

    function test_ARequestForNothingTakesTheOldOneBack() external {
        vm.startPrank(consumer);
        ledger.requestWithdrawal(DOLLAR);
        vm.expectEmit(address(ledger));
        emit ILedger.WithdrawalRequested(consumer, 0, 0);
        ledger.requestWithdrawal(0);
        assertExit(0, 0);
    }

    function assertExit(uint64 amount, uint64 payableAt) private view {
        (uint64 amount_, uint64 payableAt_) = ledger.exitOf(consumer);
        assertEq(amount_, amount);
        assertEq(payableAt_, payableAt);
    }
}
