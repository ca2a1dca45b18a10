// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_Cash_Test is LedgerTest {
    function setUp() public override {
        super.setUp();
        fundBond(DOLLAR);
    }

    function testFuzz_PaysTheDifferenceFromTheBond(uint64 earned, uint64 credited) external {
        earned = uint64(bound(earned, 1, DOLLAR));
        credited = uint64(bound(credited, 0, earned - 1));
        earn(operator, credited);
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, earned);
        uint64 owed = earned - credited;

        vm.expectEmit(address(ledger));
        emit ILedger.Cashed(operator, 0, earned, owed, 0);
        vm.prank(stranger);
        ledger.cash(operator, 0, earned, cheque);
        assertEq(ledger.accountOf(operator).earned, earned);
        assertEq(ledger.bond(), DOLLAR - owed);
    }

    function testFuzz_PaysWhatIsThereAndTheRestWhenItIs(uint64 owed) external {
        owed = uint64(bound(owed, DOLLAR + 1, 100 * DOLLAR));
        vm.warp(overdue(0));
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, owed);
        vm.expectEmit(address(ledger));
        emit ILedger.Cashed(operator, 0, owed, DOLLAR, owed - DOLLAR);
        ledger.cash(operator, 0, owed, cheque);
        assertEq(ledger.bond(), 0);

        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_BondEmpty.selector, operator, owed - DOLLAR));
        ledger.cash(operator, 0, owed, cheque);

        fundBond(1000 * DOLLAR);
        ledger.cash(operator, 0, owed, cheque);
        assertEq(ledger.accountOf(operator).earned, owed);
        assertEq(ledger.bond(), 1001 * DOLLAR - owed);
        ledger.claim(operator);
        assertEq(token.balanceOf(operator), owed / 1000);
    }

    function test_RevertWhen_TheChequeWasCashed() external {
        vm.warp(overdue(0));
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, 500);
        ledger.cash(operator, 0, 500, cheque);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NothingToCash.selector, operator, 500, 500));
        ledger.cash(operator, 0, 500, cheque);
    }

    function test_RevertWhen_TheEpochPaidItAfterwards() external {
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, 500);
        earn(operator, 600);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NothingToCash.selector, operator, 500, 600));
        ledger.cash(operator, 0, 500, cheque);
    }

    function test_TheEpochDoesNotPayASecondTimeWhatWasCashed() external {
        fund(consumer, DOLLAR, DOLLAR);
        vm.warp(overdue(0));
        ledger.cash(operator, 0, 500, signCheque(coordinatorKey, operator, 0, 500));
        bytes32[] memory payouts = two(payout(operator, 500), payout(stranger, 500));
        close(0, 0, one(charge(consumer, 500)), payouts);
        assertAccount(operator, 0, 0, 0, 500);
        assertAccount(stranger, 0, 0, 0, 500);
    }

    // ------------------------------------------------------------------------------------------------------------ When

    function test_AnEpochIsOverdueWhenItsLagIsOver() external {
        bytes memory cheque = signCheque(coordinatorKey, operator, 3, 500);
        vm.warp(overdue(3) - 1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_NotCashableYet.selector, 3, ledger.epochEnd(3) + LAG));
        ledger.cash(operator, 3, 500, cheque);
        skip(1);
        ledger.cash(operator, 3, 500, cheque);
    }

    function test_AClosedEpochNeedsNoLag() external {
        earn(stranger, 1);
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, 500);
        ledger.cash(operator, 0, 500, cheque);
        bytes memory second = signCheque(coordinatorKey, operator, 1, 600);
        vm.expectPartialRevert(ILedger.Ledger_NotCashableYet.selector);
        ledger.cash(operator, 1, 600, second);
    }

    function test_AnEpochThatWasPassedOverIsClosed() external {
        endEpoch(2);
        settle(2, 0, none(), none());
        ledger.cash(operator, 1, 500, signCheque(coordinatorKey, operator, 1, 500));
        assertEq(ledger.accountOf(operator).earned, 500);
    }

    function test_AnEpochSettledInPartIsNotClosed() external {
        endEpoch(0);
        settle(0, 0, none(), none());
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, 500);
        vm.expectPartialRevert(ILedger.Ledger_NotCashableYet.selector);
        ledger.cash(operator, 0, 500, cheque);
        vm.warp(overdue(0));
        ledger.cash(operator, 0, 500, cheque);
    }

    // ------------------------------------------------------------------------------------------------------------- Who

    function testFuzz_RevertWhen_SomebodyElseSigned(uint256 key) external {
        key = boundPrivateKey(key);
        vm.assume(key != coordinatorKey);
        vm.warp(overdue(0));
        bytes memory cheque = signCheque(key, operator, 0, 500);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ChequeForged.selector, operator, 0, vm.addr(key)));
        ledger.cash(operator, 0, 500, cheque);
    }

    function testFuzz_RevertWhen_TheChequeSaysSomethingElse(address account, uint64 epoch, uint64 earned) external {
        vm.assume(account != operator || epoch != 0 || earned != 500);
        epoch = uint64(bound(epoch, 0, 100));
        vm.warp(overdue(100));
        bytes memory cheque = signCheque(coordinatorKey, operator, 101, 500);
        vm.expectPartialRevert(ILedger.Ledger_ChequeForged.selector);
        ledger.cash(account, epoch, earned, cheque);
    }

    function testFuzz_RevertWhen_TheSignatureIsMalformed(bytes calldata signature) external {
        vm.warp(overdue(0));
        vm.expectPartialRevert(ILedger.Ledger_ChequeForged.selector);
        ledger.cash(operator, 0, 500, signature);
    }

    /// @dev A cheque names the epoch by which its work is settled, which is later than the one in which it is signed: one
    /// that retirement voided would be worth nothing exactly when it is needed.
    function testFuzz_AFormerCoordinatorsChequesStayGoodWhileTheBondIsThere(uint64 promised) external {
        uint64 epochs = BOND_RELEASE / HOUR;
        promised = uint64(bound(promised, 2, 2 + epochs));
        vm.warp(GENESIS + 2 * HOUR); // The first second of epoch 2.
        vm.prank(owner);
        ledger.setCoordinator(address(0));
        vm.warp(overdue(promised));
        ledger.cash(operator, promised, 500, signCheque(coordinatorKey, operator, promised, 500));
        assertEq(ledger.accountOf(operator).earned, 500);
    }

    function test_AFormerCoordinatorSignsForNothingLater() external {
        uint64 epoch = 3 + BOND_RELEASE / HOUR;
        vm.warp(GENESIS + 2 * HOUR);
        vm.prank(owner);
        ledger.setCoordinator(stranger);
        vm.warp(overdue(epoch));
        bytes memory late = signCheque(coordinatorKey, operator, epoch, 600);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ChequeForged.selector, operator, epoch, coordinator));
        ledger.cash(operator, epoch, 600, late);
        ledger.cash(operator, epoch, 600, signCheque(strangerKey, operator, epoch, 600));
    }

    function overdue(uint64 epoch) private view returns (uint256) {
        return ledger.epochEnd(epoch) + LAG + 1;
    }
}
