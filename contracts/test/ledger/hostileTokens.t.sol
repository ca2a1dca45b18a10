// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Ledger} from "../../src/Ledger.sol";
import {ILedger} from "../../src/interfaces/ILedger.sol";
import {BlacklistToken} from "../mocks/BlacklistToken.sol";
import {FalseToken} from "../mocks/FalseToken.sol";
import {FeeToken} from "../mocks/FeeToken.sol";
import {ReentrantToken} from "../mocks/ReentrantToken.sol";
import {RevertingToken} from "../mocks/RevertingToken.sol";
import {SilentToken} from "../mocks/SilentToken.sol";
import {LedgerTest} from "./LedgerTest.sol";
import {TestUSD} from "../../src/TestUSD.sol";

/// @notice Tokens that lie, take a share, call back, stop or freeze: the books stay true, and nobody else is hurt.
contract Ledger_HostileTokens_Test is LedgerTest {
    // ---------------------------------------------------------------------------------------------------- Takes a share

    function testFuzz_OnlyWhatArrivesIsCredited(uint64 units, uint16 bps) external {
        units = uint64(bound(units, 1, 1e15));
        bps = uint16(bound(bps, 0, 9999));
        FeeToken fees = new FeeToken();
        use(fees);
        fees.setFee(bps);
        uint64 arrives = uint64(units - uint256(units) * bps / 10_000);
        fund(consumer, units * 1000, 0);
        assertAccount(consumer, arrives * 1000, 0, 0, 0);
        fundBond(units * 1000);
        assertEq(ledger.bond(), arrives * 1000);
        assertEq(token.balanceOf(address(ledger)), 2 * uint256(arrives));
    }

    function test_RevertWhen_TheFeeTakesEverything() external {
        FeeToken fees = new FeeToken();
        use(fees);
        fees.setFee(10_000);
        token.mint(consumer, 5);
        vm.startPrank(consumer);
        token.approve(address(ledger), 5);
        vm.expectRevert(ILedger.Ledger_NothingArrived.selector);
        ledger.deposit(5, 0);
    }

    // ---------------------------------------------------------------------------------------------------- Returns false

    function test_ATransferThatReturnsFalseIsNoTransfer() external {
        FalseToken liar = new FalseToken();
        use(liar);
        prepare();
        liar.setRefuses(true);
        assertNothingMoves(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(liar)));
        liar.setRefuses(false);
        assertEverythingMoves();
    }

    // ---------------------------------------------------------------------------------------------------- Stops, freezes

    function test_ATokenThatStopsLeavesTheBooksAsTheyWere() external {
        RevertingToken stopper = new RevertingToken();
        use(stopper);
        prepare();
        stopper.setPaused(true);
        assertNothingMoves(abi.encodeWithSelector(RevertingToken.RevertingToken_Paused.selector));
        stopper.setPaused(false);
        assertEverythingMoves();
    }

    function test_AFrozenConsumerKeepsNobodyElseFromLeaving() external {
        BlacklistToken freezer = new BlacklistToken();
        use(freezer);
        prepare();
        freezer.setFrozen(consumer, true);
        vm.expectRevert(abi.encodeWithSelector(BlacklistToken.BlacklistToken_Frozen.selector, consumer));
        vm.prank(consumer);
        ledger.withdraw();
        ledger.claim(operator);
        freezer.setFrozen(consumer, false);
        vm.prank(consumer);
        ledger.withdraw();
        assertEq(token.balanceOf(consumer), UNITS / 2);
    }

    function test_AFrozenOperatorClaimsToAnotherAddress() external {
        BlacklistToken freezer = new BlacklistToken();
        use(freezer);
        prepare();
        freezer.setFrozen(operator, true);
        vm.expectRevert(abi.encodeWithSelector(BlacklistToken.BlacklistToken_Frozen.selector, operator));
        ledger.claim(operator);
        vm.prank(operator);
        ledger.setPayoutAddress(stranger);
        ledger.claim(operator);
        assertEq(token.balanceOf(stranger), UNITS / 2);
    }

    // ------------------------------------------------------------------------------------------------------- Calls back

    function test_ATokenThatCallsBackFindsEveryDoorClosed() external {
        ReentrantToken caller = new ReentrantToken();
        use(caller);
        prepare();
        caller.mint(address(caller), 100 * UNITS);
        caller.approveAsToken(address(ledger));
        bytes[] memory calls = new bytes[](6);
        calls[0] = abi.encodeCall(ILedger.deposit, (UNITS, 0));
        calls[1] = abi.encodeCall(ILedger.depositFor, (consumer, UNITS));
        calls[2] = abi.encodeCall(ILedger.depositWithPermit, (UNITS, 0, 0, 0, 0, 0));
        calls[3] = abi.encodeCall(ILedger.withdraw, ());
        calls[4] = abi.encodeCall(ILedger.claim, (operator));
        calls[5] = abi.encodeCall(ILedger.depositBond, (UNITS));
        caller.mint(consumer, calls.length * UNITS);
        vm.prank(consumer);
        caller.approve(address(ledger), type(uint256).max);
        for (uint256 i = 0; i < calls.length; ++i) {
            uint64 before = ledger.accountOf(consumer).balance;
            caller.arm(address(ledger), calls[i]);
            vm.prank(consumer);
            ledger.deposit(UNITS, 0);
            assertRefused(caller);
            assertEq(ledger.accountOf(consumer).balance, before + DOLLAR);
            assertEq(ledger.accountOf(address(caller)).balance, 0);
        }
        assertEq(ledger.bond(), 0);
        assertEq(ledger.claimedOf(operator), 0);
    }

    function test_ACallBackDuringAPaymentPaysNoSecondTime() external {
        ReentrantToken caller = new ReentrantToken();
        use(caller);
        prepare();
        caller.arm(address(ledger), abi.encodeCall(ILedger.claim, (operator)));
        ledger.claim(operator);
        assertRefused(caller);
        assertEq(token.balanceOf(operator), UNITS / 2);
        caller.arm(address(ledger), abi.encodeCall(ILedger.withdraw, ()));
        vm.prank(consumer);
        ledger.withdraw();
        assertRefused(caller);
        assertEq(token.balanceOf(consumer), UNITS / 2);
    }

    function test_ATokenThatOwnsTheLedgerCannotTakeTheBondTwice() external {
        ReentrantToken caller = new ReentrantToken();
        use(caller);
        fundBond(DOLLAR);
        fund(consumer, DOLLAR, 0);
        vm.startPrank(owner);
        ledger.setCoordinator(address(0));
        ledger.transferOwnership(address(caller));
        vm.stopPrank();
        vm.startPrank(address(caller));
        ledger.acceptOwnership();
        skip(BOND_RELEASE);
        caller.arm(address(ledger), abi.encodeCall(ILedger.releaseBond, (stranger)));
        ledger.releaseBond(stranger);
        assertRefused(caller);
        assertEq(token.balanceOf(stranger), UNITS);
    }

    // ------------------------------------------------------------------------------------------------- Returns nothing

    function test_ATokenThatReturnsNothingAndKnowsNoPermitsIsServed() external {
        SilentToken silent = new SilentToken();
        use(TestUSD(address(silent)));
        silent.mint(consumer, UNITS);
        vm.startPrank(consumer);
        silent.approve(address(ledger), UNITS);
        ledger.depositWithPermit(UNITS, 0, block.timestamp, 27, 0, 0);
        assertAccount(consumer, DOLLAR, 0, 0, 0);
        ledger.requestWithdrawal(DOLLAR);
        skip(THAW);
        ledger.withdraw();
        assertEq(silent.balanceOf(consumer), UNITS);
    }

    // ---------------------------------------------------------------------------------------------------------- Helpers

    function use(TestUSD token_) private {
        token = token_;
        ledger = new Ledger(config(address(token_)));
    }

    /// @dev Half a dollar is earned, and half a dollar is ready to leave.
    function prepare() private {
        fund(consumer, DOLLAR, DOLLAR);
        vm.prank(consumer);
        ledger.requestWithdrawal(type(uint64).max);
        endEpoch(0);
        close(0, 0, one(charge(consumer, DOLLAR / 2)), one(payout(operator, DOLLAR / 2)));
        skip(THAW);
    }

    function assertNothingMoves(bytes memory reason) private {
        bytes32 before = books();
        vm.startPrank(consumer);
        token.approve(address(ledger), UNITS);
        vm.expectRevert(reason);
        ledger.deposit(UNITS, 0);
        vm.expectRevert(reason);
        ledger.depositBond(UNITS);
        vm.expectRevert(reason);
        ledger.withdraw();
        vm.expectRevert(reason);
        ledger.claim(operator);
        vm.stopPrank();
        assertEq(books(), before);
    }

    function assertEverythingMoves() private {
        vm.prank(consumer);
        ledger.withdraw();
        ledger.claim(operator);
        assertEq(token.balanceOf(consumer), UNITS / 2);
        assertEq(token.balanceOf(operator), UNITS / 2);
        assertEq(token.balanceOf(address(ledger)), 0);
    }

    function assertRefused(ReentrantToken caller) private view {
        assertTrue(caller.hasCalled(), "the token did not call back");
        assertFalse(caller.succeeded(), "the call inside went through");
        assertEq(
            bytes4(caller.answer()), ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector, "another reason"
        );
    }

    function books() private view returns (bytes32) {
        (uint64 amount,) = ledger.exitOf(consumer);
        return keccak256(
            abi.encode(
                ledger.accountOf(consumer),
                ledger.accountOf(operator),
                ledger.claimedOf(operator),
                ledger.bond(),
                amount,
                token.balanceOf(address(ledger))
            )
        );
    }
}
