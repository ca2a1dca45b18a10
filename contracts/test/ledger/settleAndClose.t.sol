// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_SettleAndClose_Test is LedgerTest {
    address internal treasury = makeAddr("treasury");

    function setUp() public override {
        super.setUp();
        fund(consumer, 10 * DOLLAR, 10 * DOLLAR);
        endEpoch(0);
    }

    function test_AnEpochCanBeSettledAndClosedAtOnce() external {
        ILedger.Closing memory closing_ = closing();
        vm.expectEmit(address(ledger));
        emit ILedger.ChunkSettled(0, 0, 1, 2, 1000);
        vm.expectEmit(address(ledger));
        emit ILedger.EpochClosed(0, ROOT, 7, closing_.fileHash, SECRET, secretHash(NEXT_SECRET));
        close(0, 0, one(charge(consumer, 1000)), two(payout(operator, 950), payout(treasury, 50)));

        (bool closed, bytes32 root) = ledger.epochOf(0);
        assertTrue(closed);
        assertEq(root, ROOT);
        assertEq(ledger.auditSecretHash(), secretHash(NEXT_SECRET));
        assertOpen(1, 0, 0);
        assertAccount(consumer, 10 * DOLLAR - 1000, 1000, 10 * DOLLAR, 0);
        assertAccount(operator, 0, 0, 0, 950);
        assertAccount(treasury, 0, 0, 0, 50);
    }

    function test_TheTreasuryAdvancesWhatConsumersHaveNotBroughtIn() external {
        fund(treasury, DOLLAR, DOLLAR);
        close(0, 0, one(charge(treasury, 500)), one(payout(operator, 500)));
        endEpoch(1);
        bytes32[] memory payouts = two(payout(operator, 980), payout(treasury, 520));
        close(1, 0, one(charge(consumer, 1000)), payouts);
        assertAccount(treasury, DOLLAR - 500, 500, DOLLAR, 520);
        assertAccount(operator, 0, 0, 0, 980);
    }

    function testFuzz_ManyChunksMoveWhatOneWould(uint64 first, uint64 second, uint64 paid) external {
        first = uint64(bound(first, 0, 5 * DOLLAR));
        second = uint64(bound(second, first, 10 * DOLLAR));
        paid = uint64(bound(paid, 0, first));
        settle(0, 0, one(charge(consumer, first)), one(payout(operator, paid)));
        settle(0, 1, one(charge(consumer, second)), none());
        close(0, 2, none(), one(payout(treasury, second - paid)));
        assertAccount(consumer, 10 * DOLLAR - second, second, 10 * DOLLAR, 0);
        assertAccount(operator, 0, 0, 0, paid);
        assertAccount(treasury, 0, 0, 0, second - paid);
        assertOpen(1, 0, 0);
    }

    function test_AnEpochWithoutRowsCloses() external {
        close(0, 0, none(), none());
        assertOpen(1, 0, 0);
    }

    function test_EpochsPassedOverKeepTheSecretForTheNextThatCloses() external {
        endEpoch(4);
        close(4, 0, none(), none());
        (bool closed, bytes32 root) = ledger.epochOf(2);
        assertTrue(closed);
        assertEq(root, 0);
        (closed, root) = ledger.epochOf(4);
        assertTrue(closed);
        assertEq(root, ROOT);
        assertOpen(5, 0, 0);
    }

    function test_RevertWhen_ItIsClosedTwice() external {
        close(0, 0, none(), none());
        ILedger.Closing memory closing_ = closing();
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_EpochClosed.selector, 0, 1));
        vm.prank(coordinator);
        ledger.settleAndClose(0, 0, none(), noConsents(), none(), closing_);
    }

    function testFuzz_RevertWhen_MoneyIsLeftInThePool(uint64 spent, uint64 paid) external {
        spent = uint64(bound(spent, 1, 10 * DOLLAR));
        paid = uint64(bound(paid, 0, spent - 1));
        ILedger.Closing memory closing_ = closing();
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_PoolLeft.selector, 0, spent - paid));
        vm.prank(coordinator);
        ledger.settleAndClose(0, 0, one(charge(consumer, spent)), noConsents(), one(payout(operator, paid)), closing_);
    }

    function testFuzz_RevertWhen_TheSecretIsNotTheOneCommittedTo(bytes32 secret) external {
        vm.assume(secret != SECRET);
        ILedger.Closing memory closing_ = closing();
        closing_.auditSecret = secret;
        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_WrongAuditSecret.selector, secretHash(secret), secretHash(SECRET))
        );
        vm.prank(coordinator);
        ledger.settleAndClose(0, 0, none(), noConsents(), none(), closing_);
    }

    function test_RevertWhen_NoNextSecretIsCommittedTo() external {
        ILedger.Closing memory closing_ = closing();
        closing_.nextAuditSecretHash = 0;
        vm.expectRevert(ILedger.Ledger_NoNextAuditSecret.selector);
        vm.prank(coordinator);
        ledger.settleAndClose(0, 0, none(), noConsents(), none(), closing_);
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheCoordinator(address caller) external {
        vm.assume(caller != coordinator);
        ILedger.Closing memory closing_ = closing();
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NotCoordinator.selector, caller, coordinator));
        vm.prank(caller);
        ledger.settleAndClose(0, 0, none(), noConsents(), none(), closing_);
    }

    function test_ARevertedLastChunkLeavesTheOthersAsTheyWere() external {
        settle(0, 0, one(charge(consumer, 1000)), none());
        ILedger.Closing memory closing_ = closing();
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_PoolLeft.selector, 0, 1));
        vm.prank(coordinator);
        ledger.settleAndClose(0, 1, none(), noConsents(), one(payout(operator, 999)), closing_);
        assertOpen(0, 1, 1000);
        assertAccount(operator, 0, 0, 0, 0);
        close(0, 1, none(), one(payout(operator, 1000)));
        assertAccount(operator, 0, 0, 0, 1000);
    }

    function assertOpen(uint64 epoch, uint32 chunks, uint64 pool) private view {
        (uint64 epoch_, uint32 chunks_, uint64 pool_) = ledger.openEpoch();
        assertEq(epoch_, epoch, "epoch");
        assertEq(chunks_, chunks, "chunks");
        assertEq(pool_, pool, "pool");
    }
}
