// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_SetPayoutAddress_Test is LedgerTest {
    function test_UntilThenItIsTheAccountItself() external view {
        assertEq(ledger.payoutAddressOf(operator), operator);
    }

    function testFuzz_EarningsGoWhereTheirOwnerSays(address to) external {
        vm.assume(to != address(0));
        vm.expectEmit(address(ledger));
        emit ILedger.PayoutAddressSet(operator, to);
        vm.prank(operator);
        ledger.setPayoutAddress(to);
        assertEq(ledger.payoutAddressOf(operator), to);
        assertEq(ledger.payoutAddressOf(stranger), stranger);
    }

    function test_WhatWasClaimedStaysClaimed() external {
        earn(operator, DOLLAR);
        ledger.claim(operator);
        vm.prank(operator);
        ledger.setPayoutAddress(stranger);
        assertEq(ledger.claimedOf(operator), DOLLAR);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NothingToClaim.selector, operator, 0));
        ledger.claim(operator);
    }

    function test_RevertWhen_TheAddressIsZero() external {
        vm.expectRevert(ILedger.Ledger_ZeroAddress.selector);
        ledger.setPayoutAddress(address(0));
    }
}
