// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_CommitAuditSecret_Test is LedgerTest {
    function testFuzz_ACoordinatorWithoutTheOldSecretCanCloseWithANewOne(bytes32 secret) external {
        vm.expectEmit(address(ledger));
        emit ILedger.AuditSecretCommitted(secretHash(secret));
        vm.prank(owner);
        ledger.commitAuditSecret(secretHash(secret));

        endEpoch(0);
        ILedger.Closing memory closing_ = closing();
        closing_.auditSecret = secret;
        vm.prank(coordinator);
        ledger.settleAndClose(0, 0, none(), noConsents(), none(), closing_);
        assertEq(ledger.nextEpoch(), 1);
    }

    function test_RevertWhen_TheCommitmentIsZero() external {
        vm.expectRevert(ILedger.Ledger_NoNextAuditSecret.selector);
        vm.prank(owner);
        ledger.commitAuditSecret(0);
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheOwner(address caller) external {
        vm.assume(caller != owner);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, caller));
        vm.prank(caller);
        ledger.commitAuditSecret(ROOT);
    }
}
