// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_Deposit_Test is LedgerTest {
    function testFuzz_AUnitIsAThousandNanoDollars(uint64 units, uint64 authorized) external {
        units = uint64(bound(units, 1, type(uint64).max / 1000));
        give(units);

        vm.expectEmit(address(ledger));
        if (authorized > 0) emit ILedger.Authorized(consumer, authorized);
        emit ILedger.Deposited(consumer, consumer, units * 1000, units * 1000);
        vm.prank(consumer);
        ledger.deposit(units, authorized);

        assertAccount(consumer, units * 1000, 0, authorized, 0);
        assertEq(token.balanceOf(address(ledger)), units);
        assertEq(token.balanceOf(consumer), 0);
    }

    function testFuzz_TheRightIsTheLargerOfTheOldAndTheNew(uint64 old, uint64 given) external {
        fund(consumer, DOLLAR, old);
        fund(consumer, DOLLAR, given);
        assertAccount(consumer, 2 * DOLLAR, 0, old > given ? old : given, 0);
    }

    function test_ADepositTouchesNeitherWhatWasSpentNorWhatWasEarned() external {
        fund(consumer, DOLLAR, DOLLAR);
        earn(consumer, 5);
        endEpoch(1);
        close(1, 0, one(charge(consumer, 300)), two(payout(consumer, 5), payout(operator, 300)));
        fund(consumer, DOLLAR, 0);
        assertAccount(consumer, 2 * DOLLAR - 300, 300, DOLLAR, 5);
    }

    function test_RevertWhen_NothingArrives() external {
        vm.expectRevert(ILedger.Ledger_NothingArrived.selector);
        vm.prank(consumer);
        ledger.deposit(0, 0);
    }

    function test_RevertWhen_TheAllowanceDoesNotSuffice() external {
        token.mint(consumer, 10);
        vm.prank(consumer);
        token.approve(address(ledger), 9);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(ledger), 9, 10)
        );
        vm.prank(consumer);
        ledger.deposit(10, 0);
    }

    function test_RevertWhen_TheBooksCannotHoldTheAmount() external {
        uint256 units = type(uint64).max / 1000 + 1;
        give(units);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_TooMuch.selector, units));
        vm.prank(consumer);
        ledger.deposit(units, 0);
    }

    function test_RevertWhen_TheBooksCannotHoldTheSum() external {
        uint256 units = type(uint64).max / 1000;
        give(units);
        vm.prank(consumer);
        ledger.deposit(units, 0);
        give(1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_TooMuch.selector, (units + 1) * 1000));
        vm.prank(consumer);
        ledger.deposit(1, 0);
    }

    function give(uint256 units) private {
        token.mint(consumer, units);
        vm.prank(consumer);
        token.approve(address(ledger), units);
    }
}
