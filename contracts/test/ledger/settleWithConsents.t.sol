// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_SettleWithConsents_Test is LedgerTest {
    function setUp() public override {
        super.setUp();
        fund(consumer, 10 * DOLLAR, 0);
        endEpoch(0);
    }

    function testFuzz_AConsentIsARightToWhatItSays(uint64 spent) external {
        spent = uint64(bound(spent, 0, 10 * DOLLAR));
        settleOne(spent, signConsent(consumerKey, consumer, spent));
        assertAccount(consumer, 10 * DOLLAR - spent, spent, spent, 0);
    }

    function testFuzz_AConsentKeySignsInItsOwnersPlace(uint256 key, uint64 spent) external {
        key = boundPrivateKey(key);
        spent = uint64(bound(spent, 1, 10 * DOLLAR));
        vm.prank(consumer);
        ledger.addConsentKey(vm.addr(key));
        settleOne(spent, signConsent(key, consumer, spent));
        assertAccount(consumer, 10 * DOLLAR - spent, spent, spent, 0);
    }

    function test_AConsentForMoreThanIsChargedLeavesARight() external {
        settleOne(DOLLAR, signConsent(consumerKey, consumer, 3 * DOLLAR));
        assertAccount(consumer, 9 * DOLLAR, DOLLAR, 3 * DOLLAR, 0);
    }

    function test_AConsentForLessThanTheRightDoesNotLowerIt() external {
        vm.prank(consumer);
        ledger.authorize(5 * DOLLAR);
        settleOne(2 * DOLLAR, signConsent(consumerKey, consumer, DOLLAR));
        assertAccount(consumer, 8 * DOLLAR, 2 * DOLLAR, 5 * DOLLAR, 0);
    }

    function test_TheSameConsentAgainIsWorthNothing() external {
        ILedger.ConsentSignature memory consent = signConsent(consumerKey, consumer, DOLLAR);
        settleOne(DOLLAR, consent);
        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_ChargeBeyondRight.selector, 0, consumer, DOLLAR + 1, DOLLAR)
        );
        settleChunk(1, one(chargeWithConsent(consumer, DOLLAR + 1)), oneConsent(consent));
    }

    function test_ConsentsAreTakenInTheOrderOfTheFlaggedRows() external {
        fund(stranger, DOLLAR, 0);
        fund(operator, DOLLAR, DOLLAR);
        bytes32[] memory charges = new bytes32[](3);
        charges[0] = chargeWithConsent(consumer, 100);
        charges[1] = charge(operator, 200);
        charges[2] = chargeWithConsent(stranger, 300);
        ILedger.ConsentSignature[] memory consents = new ILedger.ConsentSignature[](2);
        consents[0] = signConsent(consumerKey, consumer, 100);
        consents[1] = signConsent(strangerKey, stranger, 300);
        settleChunk(0, charges, consents);
        assertAccount(consumer, 10 * DOLLAR - 100, 100, 100, 0);
        assertAccount(operator, DOLLAR - 200, 200, DOLLAR, 0);
        assertAccount(stranger, DOLLAR - 300, 300, 300, 0);
    }

    function test_RevertWhen_TheConsentIsBeyondTheBalance() external {
        uint64 spent = 10 * DOLLAR + 1;
        ILedger.ConsentSignature memory consent = signConsent(consumerKey, consumer, spent);
        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_ChargeBeyondBalance.selector, 0, consumer, spent, 10 * DOLLAR)
        );
        settleOne(spent, consent);
    }

    function testFuzz_RevertWhen_SomebodyElseSigned(uint256 key, uint64 spent) external {
        key = boundPrivateKey(key);
        address signer = vm.addr(key);
        vm.assume(signer != consumer);
        // A key of another account is no key of this one.
        vm.prank(stranger);
        ledger.addConsentKey(signer);
        ILedger.ConsentSignature memory consent = signConsent(key, consumer, spent);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ConsentForged.selector, 0, consumer, spent, signer));
        settleOne(spent, consent);
    }

    function testFuzz_RevertWhen_ABitOfTheSignatureIsChanged(uint64 spent, uint8 bit) external {
        ILedger.ConsentSignature memory consent = signConsent(consumerKey, consumer, spent);
        consent.r ^= bytes32(uint256(1) << bit);
        vm.expectPartialRevert(ILedger.Ledger_ConsentForged.selector);
        settleOne(spent, consent);
        consent = signConsent(consumerKey, consumer, spent);
        consent.vs ^= bytes32(uint256(1) << bit);
        vm.expectPartialRevert(ILedger.Ledger_ConsentForged.selector);
        settleOne(spent, consent);
    }

    function test_RevertWhen_ASignatureOfNobodyNamesTheAccountZero() external {
        ILedger.ConsentSignature memory nobody = ILedger.ConsentSignature(0, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ConsentForged.selector, 0, address(0), 0, address(0)));
        settleChunk(0, one(chargeWithConsent(address(0), 0)), oneConsent(nobody));
    }

    function test_RevertWhen_TheConsentIsAboutAnotherSum() external {
        ILedger.ConsentSignature memory consent = signConsent(consumerKey, consumer, DOLLAR);
        consent.spent = 2 * DOLLAR;
        vm.expectPartialRevert(ILedger.Ledger_ConsentForged.selector);
        settleOne(2 * DOLLAR, consent);
    }

    function test_RevertWhen_TheConsentWasSignedForAnotherChain() external {
        ILedger.ConsentSignature memory consent = signConsent(consumerKey, consumer, DOLLAR);
        vm.chainId(block.chainid + 1);
        vm.expectPartialRevert(ILedger.Ledger_ConsentForged.selector);
        settleOne(DOLLAR, consent);
    }

    function test_RevertWhen_AFlaggedRowHasNoConsent() external {
        bytes32[] memory charges = two(chargeWithConsent(consumer, 1), chargeWithConsent(consumer, 2));
        ILedger.ConsentSignature[] memory consents = oneConsent(signConsent(consumerKey, consumer, 2));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ConsentMissing.selector, 1, consumer));
        settleChunk(0, charges, consents);
    }

    function test_RevertWhen_AConsentBelongsToNoRow() external {
        ILedger.ConsentSignature[] memory consents = oneConsent(signConsent(consumerKey, consumer, 2));
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_ConsentsLeft.selector, 0, 1));
        settleChunk(0, one(charge(consumer, 0)), consents);
    }

    function test_ARightThatWasTakenBackComesBackOnlyAsFarAsConsentsGo() external {
        vm.startPrank(consumer);
        ledger.authorize(9 * DOLLAR);
        ledger.requestWithdrawal(type(uint64).max);
        skip(THAW);
        ledger.withdraw();
        vm.stopPrank();
        fund(consumer, 10 * DOLLAR, 0);

        ILedger.ConsentSignature memory consent = signConsent(consumerKey, consumer, DOLLAR);
        vm.expectRevert(
            abi.encodeWithSelector(ILedger.Ledger_ChargeBeyondRight.selector, 0, consumer, DOLLAR + 1, DOLLAR)
        );
        settleOne(DOLLAR + 1, consent);
        settleOne(DOLLAR, consent);
        assertAccount(consumer, 9 * DOLLAR, DOLLAR, DOLLAR, 0);
    }

    function settleOne(uint64 spent, ILedger.ConsentSignature memory consent) private {
        settleChunk(0, one(chargeWithConsent(consumer, spent)), oneConsent(consent));
    }

    function settleChunk(uint32 chunk, bytes32[] memory charges, ILedger.ConsentSignature[] memory consents) private {
        vm.prank(coordinator);
        ledger.settle(0, chunk, charges, consents, none());
    }
}
