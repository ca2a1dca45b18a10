// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_Authorize_Test is LedgerTest {
    function testFuzz_TheRightGrowsToWhatIsGiven(uint64 old, uint64 given) external {
        given = uint64(bound(given, old, type(uint64).max));
        vm.startPrank(consumer);
        ledger.authorize(old);
        vm.expectEmit(address(ledger));
        emit ILedger.Authorized(consumer, given);
        ledger.authorize(given);
        assertAccount(consumer, 0, 0, given, 0);
    }

    function testFuzz_RevertWhen_TheRightWouldShrink(uint64 old, uint64 given) external {
        old = uint64(bound(old, 1, type(uint64).max));
        given = uint64(bound(given, 0, old - 1));
        vm.startPrank(consumer);
        ledger.authorize(old);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_RightGoesBack.selector, given, old));
        ledger.authorize(given);
    }
}
