// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_Claim_Test is LedgerTest {
    function testFuzz_PaysWholeUnitsOnceAndKeepsTheRest(uint64 first, uint64 second) external {
        first = uint64(bound(first, 1000, 1e15));
        second = uint64(bound(second, 1000, 1e15));
        earn(operator, first);
        assertClaim(operator, first / 1000);
        assertEq(ledger.claimedOf(operator), first / 1000 * 1000);

        earn(operator, second);
        assertClaim(operator, (first + second) / 1000 - first / 1000);
        assertEq(token.balanceOf(operator), (first + second) / 1000);

        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_NothingToClaim.selector, operator, (first + second) % 1000)
        );
        ledger.claim(operator);
    }

    function test_PaysToThePayoutAddress() external {
        address safe = makeAddr("safe");
        earn(operator, DOLLAR);
        vm.prank(operator);
        ledger.setPayoutAddress(safe);
        assertClaim(safe, UNITS);
        assertEq(token.balanceOf(operator), 0);
    }

    function testFuzz_RevertWhen_LessThanAUnitIsUnclaimed(uint64 earned) external {
        earned = uint64(bound(earned, 0, 999));
        earn(operator, earned);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NothingToClaim.selector, operator, earned));
        ledger.claim(operator);
    }

    function assertClaim(address to, uint64 units) private {
        uint256 before = token.balanceOf(to);
        vm.expectEmit(address(ledger));
        emit ILedger.Claimed(operator, to, units, units * 1000);
        vm.prank(stranger);
        ledger.claim(operator);
        assertEq(token.balanceOf(to) - before, units);
    }
}
