// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_DepositFor_Test is LedgerTest {
    function testFuzz_TheOtherAccountIsCreditedAndItsRightStays(uint64 units, uint64 right) external {
        units = uint64(bound(units, 1, 1e15));
        vm.prank(consumer);
        ledger.authorize(right);
        token.mint(stranger, units);
        vm.prank(stranger);
        token.approve(address(ledger), units);

        vm.expectEmit(address(ledger));
        emit ILedger.Deposited(consumer, stranger, units * 1000, units * 1000);
        vm.prank(stranger);
        ledger.depositFor(consumer, units);

        assertAccount(consumer, units * 1000, 0, right, 0);
        assertAccount(stranger, 0, 0, 0, 0);
        assertEq(token.balanceOf(stranger), 0);
    }

    function test_RevertWhen_TheAccountIsZero() external {
        vm.expectRevert(ILedger.Ledger_ZeroAddress.selector);
        ledger.depositFor(address(0), 1);
    }

    function test_RevertWhen_NothingArrives() external {
        vm.expectRevert(ILedger.Ledger_NothingArrived.selector);
        ledger.depositFor(consumer, 0);
    }
}
