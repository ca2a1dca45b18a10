// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_AddConsentKey_Test is LedgerTest {
    function testFuzz_TheKeySignsForTheCallerAndForNobodyElse(address key, address second) external {
        vm.assume(key != address(0) && second != address(0) && key != second);
        vm.expectEmit(address(ledger));
        emit ILedger.ConsentKeyAdded(consumer, key);
        vm.prank(consumer);
        ledger.addConsentKey(key);

        assertTrue(ledger.isConsentKey(consumer, key));
        assertFalse(ledger.isConsentKey(stranger, key));
        assertFalse(ledger.isConsentKey(consumer, second));

        vm.prank(consumer);
        ledger.addConsentKey(second);
        assertTrue(ledger.isConsentKey(consumer, key));
        assertTrue(ledger.isConsentKey(consumer, second));
    }

    function test_RevertWhen_TheKeyIsZero() external {
        vm.expectRevert(ILedger.Ledger_ZeroAddress.selector);
        ledger.addConsentKey(address(0));
    }
}
