// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {Rows} from "../../src/libraries/Rows.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_Settle_Test is LedgerTest {
    function setUp() public override {
        super.setUp();
        fund(consumer, 10 * DOLLAR, 4 * DOLLAR);
        endEpoch(0);
    }

    // ---------------------------------------------------------------------------------------------------- Who and when

    function testFuzz_RevertWhen_TheCallerIsNotTheCoordinator(address caller) external {
        vm.assume(caller != coordinator);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NotCoordinator.selector, caller, coordinator));
        vm.prank(caller);
        ledger.settle(0, 0, none(), noConsents(), none());
    }

    function testFuzz_RevertWhen_TheEpochIsNotOver(uint64 epoch) external {
        epoch = uint64(bound(epoch, 1, type(uint64).max));
        uint256 end = ledger.epochEnd(epoch);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_EpochNotOver.selector, epoch, end));
        settle(epoch, 0, none(), none());
    }

    function test_AnEpochIsOverInItsLastSecondPlusOne() external {
        vm.warp(ledger.epochEnd(1) - 1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_EpochNotOver.selector, 1, ledger.epochEnd(1)));
        settle(1, 0, none(), none());
        skip(1);
        settle(1, 0, none(), none());
    }

    function test_RevertWhen_TheEpochIsClosed() external {
        close(0, 0, none(), none());
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_EpochClosed.selector, 0, 1));
        settle(0, 0, none(), none());
    }

    function test_RevertWhen_AnotherEpochIsSettledInPart() external {
        settle(0, 0, none(), none());
        endEpoch(1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_EpochOpen.selector, 1, 0));
        settle(1, 0, none(), none());
    }

    function test_EpochsPassedOverAreClosedWithNoRoot() external {
        endEpoch(3);
        settle(3, 0, one(charge(consumer, 700)), none());
        for (uint64 epoch = 0; epoch < 3; ++epoch) {
            (bool closed_, bytes32 root_) = ledger.epochOf(epoch);
            assertTrue(closed_);
            assertEq(root_, 0);
        }
        (bool closed, bytes32 root) = ledger.epochOf(3);
        assertFalse(closed);
        assertEq(root, 0);
        assertProgress(3, 1, 700);
    }

    // ---------------------------------------------------------------------------------------------------------- Chunks

    function testFuzz_RevertWhen_TheChunkIsNotTheNextOne(uint32 chunk) external {
        vm.assume(chunk != 1);
        settle(0, 0, one(charge(consumer, 700)), none());
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_WrongChunk.selector, 0, chunk, 1));
        settle(0, chunk, one(charge(consumer, 800)), none());
    }

    function test_ThePoolIsKeptBetweenChunks() external {
        vm.expectEmit(address(ledger));
        emit ILedger.ChunkSettled(0, 0, 1, 0, 1000);
        settle(0, 0, one(charge(consumer, 1000)), none());
        assertProgress(0, 1, 1000);

        vm.expectEmit(address(ledger));
        emit ILedger.ChunkSettled(0, 1, 1, 2, 500);
        settle(0, 1, one(charge(consumer, 1500)), two(payout(operator, 300), payout(stranger, 400)));
        assertProgress(0, 2, 800);
        assertAccount(consumer, 10 * DOLLAR - 1500, 1500, 4 * DOLLAR, 0);
        assertAccount(operator, 0, 0, 0, 300);
        assertAccount(stranger, 0, 0, 0, 400);
    }

    // --------------------------------------------------------------------------------------------------------- Charges

    function testFuzz_AChargeMovesWhatIsNewInIt(uint64 first, uint64 second) external {
        first = uint64(bound(first, 0, 4 * DOLLAR));
        second = uint64(bound(second, first, 4 * DOLLAR));
        settle(0, 0, one(charge(consumer, first)), none());
        settle(0, 1, one(charge(consumer, second)), none());
        assertAccount(consumer, 10 * DOLLAR - second, second, 4 * DOLLAR, 0);
        assertProgress(0, 2, second);
    }

    function testFuzz_ARepeatedChargeMovesNothing(uint64 spent) external {
        spent = uint64(bound(spent, 0, 4 * DOLLAR));
        settle(0, 0, two(charge(consumer, spent), charge(consumer, spent)), none());
        assertAccount(consumer, 10 * DOLLAR - spent, spent, 4 * DOLLAR, 0);
        assertProgress(0, 1, spent);
    }

    function testFuzz_RevertWhen_AChargeGoesBack(uint64 spent, uint64 given) external {
        spent = uint64(bound(spent, 1, 4 * DOLLAR));
        given = uint64(bound(given, 0, spent - 1));
        settle(0, 0, one(charge(consumer, spent)), none());
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ChargeGoesBack.selector, 0, consumer, given, spent));
        settle(0, 1, one(charge(consumer, given)), none());
    }

    function testFuzz_RevertWhen_AChargeGoesBeyondTheRight(uint64 spent) external {
        spent = uint64(bound(spent, 4 * DOLLAR + 1, type(uint64).max));
        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_ChargeBeyondRight.selector, 1, consumer, spent, 4 * DOLLAR)
        );
        settle(0, 0, two(charge(stranger, 0), charge(consumer, spent)), none());
    }

    function testFuzz_RevertWhen_AChargeGoesBeyondTheBalance(uint64 spent) external {
        spent = uint64(bound(spent, 10 * DOLLAR + 1, type(uint64).max));
        vm.prank(consumer);
        ledger.authorize(type(uint64).max);
        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_ChargeBeyondBalance.selector, 1, consumer, spent, 10 * DOLLAR)
        );
        settle(0, 0, two(charge(stranger, 0), charge(consumer, spent)), none());
    }

    function test_AnAccountCanBeChargedToItsLastNanoDollar() external {
        vm.prank(consumer);
        ledger.authorize(10 * DOLLAR);
        settle(0, 0, one(charge(consumer, 10 * DOLLAR)), none());
        assertAccount(consumer, 0, 10 * DOLLAR, 10 * DOLLAR, 0);
    }

    function testFuzz_RevertWhen_AChargeCarriesUnknownFlags(uint32 flags) external {
        flags = uint32(bound(flags, 2, type(uint32).max));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ChargeFlagsUnknown.selector, 0, consumer, flags));
        settle(0, 0, one(Rows.pack(consumer, 1, flags)), none());
    }

    function test_RevertWhen_TheChargesOverflowThePool() external {
        uint64 most = type(uint64).max / 1000 * 1000;
        fund(stranger, most, most);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_TooMuch.selector, uint256(most) + DOLLAR));
        settle(0, 0, two(charge(stranger, most), charge(consumer, DOLLAR)), none());
        settle(0, 0, one(charge(stranger, most)), none());
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_TooMuch.selector, uint256(most) + DOLLAR));
        settle(0, 1, one(charge(consumer, DOLLAR)), none());
    }

    // --------------------------------------------------------------------------------------------------------- Payouts

    function testFuzz_APayoutMovesWhatIsNewInIt(uint64 first, uint64 second) external {
        first = uint64(bound(first, 0, 2 * DOLLAR));
        second = uint64(bound(second, first, 2 * DOLLAR));
        settle(0, 0, one(charge(consumer, 2 * DOLLAR)), one(payout(operator, first)));
        assertProgress(0, 1, 2 * DOLLAR - first);
        settle(0, 1, none(), two(payout(operator, second), payout(operator, second)));
        assertAccount(operator, 0, 0, 0, second);
        assertProgress(0, 2, 2 * DOLLAR - second);
    }

    function testFuzz_RevertWhen_APayoutGoesBack(uint64 earned, uint64 given) external {
        earned = uint64(bound(earned, 1, DOLLAR));
        given = uint64(bound(given, 0, earned - 1));
        settle(0, 0, one(charge(consumer, DOLLAR)), one(payout(operator, earned)));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_PayoutGoesBack.selector, 0, operator, given, earned));
        settle(0, 1, none(), one(payout(operator, given)));
    }

    function testFuzz_RevertWhen_ThePoolIsShort(uint64 earned) external {
        earned = uint64(bound(earned, 601, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_PoolShort.selector, 1, operator, earned, 600));
        settle(0, 0, one(charge(consumer, 1000)), two(payout(stranger, 400), payout(operator, earned)));
    }

    function testFuzz_RevertWhen_APayoutCarriesFlags(uint32 flags) external {
        flags = uint32(bound(flags, 1, type(uint32).max));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_PayoutFlagsUnknown.selector, 0, operator, flags));
        settle(0, 0, none(), one(Rows.pack(operator, 0, flags)));
    }

    function assertProgress(uint64 epoch, uint32 chunks, uint64 pool) private view {
        (uint64 epoch_, uint32 chunks_, uint64 pool_) = ledger.openEpoch();
        assertEq(epoch_, epoch, "epoch");
        assertEq(chunks_, chunks, "chunks");
        assertEq(pool_, pool, "pool");
        assertEq(ledger.nextEpoch(), epoch, "next epoch");
    }
}
