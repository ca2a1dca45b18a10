// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_DepositBond_Test is LedgerTest {
    function testFuzz_TheBondGrowsByWhatArrives(uint64 first, uint64 second) external {
        first = uint64(bound(first, 1, 1e15));
        second = uint64(bound(second, 1, 1e15));
        fundBond(first * 1000);
        token.mint(stranger, second);
        vm.prank(stranger);
        token.approve(address(ledger), second);
        vm.expectEmit(address(ledger));
        emit ILedger.BondDeposited(stranger, second * 1000, (first + second) * 1000);
        vm.prank(stranger);
        ledger.depositBond(second);
        assertEq(ledger.bond(), (first + second) * 1000);
        assertAccount(stranger, 0, 0, 0, 0);
    }

    function test_RevertWhen_NothingArrives() external {
        vm.expectRevert(ILedger.Ledger_NothingArrived.selector);
        ledger.depositBond(0);
    }

    function test_RevertWhen_TheBooksCannotHoldTheSum() external {
        uint64 most = type(uint64).max / 1000 * 1000;
        fundBond(most);
        token.mint(owner, 1);
        vm.prank(owner);
        token.approve(address(ledger), 1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_TooMuch.selector, uint256(most) + 1000));
        vm.prank(owner);
        ledger.depositBond(1);
    }
}
