// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {Rows} from "../../src/libraries/Rows.sol";
import {LedgerWorld} from "./LedgerWorld.sol";

/// @notice A coordinator that tries to take whatever it can: invented charges, forged and replayed consents, payouts to
/// itself, epochs in any order, cheques to a friend. What the Ledger takes from it is held against the record.
contract LedgerDishonest is LedgerWorld {
    address private accomplice;
    mapping(address person => ILedger.ConsentSignature) private lastConsent;

    constructor() {
        accomplice = operators[0];
    }

    // ------------------------------------------------------------------------------------------------- Honest signatures

    /// @notice A consumer signs for something, and the coordinator keeps the signature for later.
    function sign(uint256 who, uint64 more) external counted("sign") {
        address person = consumers[who % CONSUMERS];
        uint64 spent = ledger.accountOf(person).spent + uint64(bound(more, 0, 10 * DOLLAR));
        lastConsent[person] = consent(person, spent, who % 2 == 0);
    }

    // ----------------------------------------------------------------------------------------------------------- Attacks

    /// @notice Charges one consumer too much or too little or within bounds, with or without a signature of some kind. It is
    /// taken exactly if every rule allows it. Mostly one rule is broken at a time: a batch that breaks two shows neither.
    function charge(uint256 who, uint64 spent, uint256 how, uint64 earned) external counted("charge") {
        address person = consumers[who % CONSUMERS];
        uint64 recorded = ledger.accountOf(accomplice).earned;
        tryCharge(person, target(person, spent, (how >> 16) % 4), how, (how >> 24) % 4 == 0 ? earned : recorded);
    }

    /// @dev Just beyond the right, anywhere in the balance, less than was charged, or any number.
    function target(address person, uint64 any, uint256 kind) private view returns (uint64) {
        ILedger.Account memory account = ledger.accountOf(person);
        if (kind == 0 && account.authorized < type(uint64).max - DOLLAR) return account.authorized + 1 + any % DOLLAR;
        if (kind == 1) return account.spent + uint64(bound(any, 0, account.balance));
        if (kind == 2) return uint64(bound(any, 0, account.spent));
        return any;
    }

    /// @notice Charges a part of what the record allows, and pays the accomplice a part of that.
    function chargeWithin(uint256 who, uint64 spent, uint64 earned) external counted("chargeWithin") {
        address person = consumers[who % CONSUMERS];
        ILedger.Account memory account = ledger.accountOf(person);
        uint64 room = account.authorized - account.spent;
        uint64 amount = uint64(bound(spent, 0, room < account.balance ? room : account.balance));
        uint64 before = ledger.accountOf(accomplice).earned;
        bool isTaken = tryCharge(person, account.spent + amount, 1, before + uint64(bound(earned, 0, amount)));
        assertTrue(isTaken, "a charge within right and balance was refused");
    }

    function tryCharge(address person, uint64 spent, uint256 how, uint64 earned) private returns (bool isTaken) {
        ILedger.ConsentSignature memory s = signature(person, spent, how);
        bool isFlagged = how % 3 == 0;
        bool mayPass = isAllowed(person, spent, earned, isFlagged, s);
        isTaken = attempt(
            one(Rows.pack(person, spent, isFlagged ? Rows.WITH_CONSENT : uint32(0))),
            isFlagged ? oneConsent(s) : noConsents(),
            one(payout(accomplice, earned))
        );
        assertEq(isTaken, mayPass, "the rules say otherwise");
    }

    /// @dev The rules for one charge and one payout, in the words of `ILedger.settle`.
    function isAllowed(address person, uint64 spent, uint64 earned, bool isFlagged, ILedger.ConsentSignature memory s)
        private
        view
        returns (bool)
    {
        ILedger.Account memory account = ledger.accountOf(person);
        ILedger.ConsentSignature memory last = lastConsent[person];
        if (isFlagged && (last.r == 0 || s.r != last.r || s.vs != last.vs || s.spent != last.spent)) return false;
        uint64 limit = isFlagged && s.spent > account.authorized ? s.spent : account.authorized;
        if (spent < account.spent || spent > limit || spent - account.spent > account.balance) return false;
        (,, uint64 pool) = ledger.openEpoch();
        uint64 recorded = ledger.accountOf(accomplice).earned;
        return earned >= recorded && earned - recorded <= pool + (spent - account.spent);
    }

    /// @notice Charges everybody as much as the record of rights and balances allows, and pays the accomplice all of it.
    function chargeTheMost(bool closes) external counted("chargeTheMost") {
        takeTheMost(closes);
    }

    /// @notice Sends a batch for any epoch and any chunk.
    function jump(uint64 epoch, uint32 chunk, bool far) external counted("jump") {
        uint64 next = ledger.nextEpoch();
        epoch = far ? epoch : uint64(bound(epoch, next > 2 ? next - 2 : 0, next + 3));
        (, uint32 chunks, uint64 pool) = ledger.openEpoch();
        chunk = chunk % 4 == 0 ? chunk : chunks;
        bool mayPass = chunk == chunks && epoch >= next && block.timestamp >= ledger.epochEnd(epoch)
            && (chunks == 0 || epoch == next);
        bytes32 before = fingerprint();
        vm.prank(coordinator);
        try ledger.settle(epoch, chunk, none(), noConsents(), none()) {
            assertTrue(mayPass, "a batch out of its turn was taken");
            (uint64 open, uint32 chunksNow, uint64 poolNow) = ledger.openEpoch();
            assertEq(open, epoch);
            assertEq(chunksNow, chunks + 1);
            assertEq(poolNow, pool);
        } catch {
            assertFalse(mayPass, "a batch in its turn was refused");
            assertEq(fingerprint(), before, "a refused batch changed something");
        }
    }

    /// @notice Closes, with money left in the pool or a wrong secret or neither.
    function close(uint256 how) external counted("close") {
        (uint64 epoch, uint32 chunks, uint64 pool) = ledger.openEpoch();
        endEpoch(epoch);
        uint64 paid = how % 3 == 0 ? pool / 2 : pool;
        ILedger.Closing memory closing_ = closing();
        if (how % 5 == 0) closing_.auditSecret = keccak256("another");
        closing_.receiptsRoot = keccak256(abi.encode(how));
        bool mayPass = paid == pool && how % 5 != 0;
        bytes32[] memory payouts = one(payout(accomplice, ledger.accountOf(accomplice).earned + paid));
        vm.prank(coordinator);
        try ledger.settleAndClose(epoch, chunks, none(), noConsents(), payouts, closing_) {
            assertTrue(mayPass, "an epoch closed that should not have");
            closedRoots[epoch] = closing_.receiptsRoot;
        } catch {
            assertFalse(mayPass, "an epoch did not close");
        }
    }

    /// @notice Writes a cheque to a friend for more than the bond can pay, and cashes it twice.
    function cheat(uint64 more) external counted("cheat") {
        acknowledge(accomplice, ledger.accountOf(accomplice).earned + uint64(bound(more, 1, 200 * DOLLAR)));
        vm.warp(ledger.epochEnd(promisedIn[accomplice]) + LAG + 1);
        if (ledger.bond() == 0) addBond(DOLLAR);
        cashCheque(accomplice, promisedIn[accomplice], promised[accomplice]);
        if (ledger.accountOf(accomplice).earned == promised[accomplice]) {
            refuseCheque(accomplice, promisedIn[accomplice], promised[accomplice]);
        }
    }

    /// @notice Somebody who is not the coordinator writes a cheque, or changes a figure in one.
    function forgeCheque(uint64 earned, bool changes) external counted("forgeCheque") {
        uint64 epoch = ledger.nextEpoch();
        vm.warp(ledger.epochEnd(epoch) + LAG + 1);
        bytes memory cheque = signCheque(changes ? coordinatorKey : strangerKey, stranger, epoch, earned);
        if (changes) earned ^= 1;
        vm.expectPartialRevert(ILedger.Ledger_ChequeForged.selector);
        ledger.cash(stranger, epoch, earned, cheque);
    }

    // ------------------------------------------------------------------------------------------------------------- Steps

    /// @dev While everybody leaves, the coordinator takes all it has a right to.
    function interfere() internal override {
        takeTheMost(true);
    }

    function owe(address person) internal override {
        acknowledge(person, ledger.accountOf(person).earned + 1 + uint64(total) * 1_000_003);
    }

    function takeTheMost(bool closes) private {
        (uint64 epoch, uint32 chunks, uint64 loot) = ledger.openEpoch();
        endEpoch(epoch);
        bytes32[] memory charges = new bytes32[](CONSUMERS);
        ILedger.ConsentSignature[] memory consents = new ILedger.ConsentSignature[](CONSUMERS);
        for (uint256 i = 0; i < CONSUMERS; ++i) {
            ILedger.Account memory account = ledger.accountOf(consumers[i]);
            uint64 room = rightOf(consumers[i]) - account.spent;
            uint64 amount = room < account.balance ? room : account.balance;
            charges[i] = chargeWithConsent(consumers[i], account.spent + amount);
            consents[i] = consent(consumers[i], consented[consumers[i]], true);
            loot += amount;
        }
        bytes32[] memory payouts = one(payout(accomplice, ledger.accountOf(accomplice).earned + loot));
        ILedger.Closing memory closing_ = closing();
        vm.startPrank(coordinator);
        if (closes) {
            ledger.settleAndClose(epoch, chunks, charges, consents, payouts, closing_);
            closedRoots[epoch] = closing_.receiptsRoot;
        } else {
            ledger.settle(epoch, chunks, charges, consents, payouts);
        }
        vm.stopPrank();
    }

    /// @dev Sends one chunk in its turn. If it is refused, nothing may have changed.
    function attempt(bytes32[] memory charges, ILedger.ConsentSignature[] memory consents, bytes32[] memory payouts)
        private
        returns (bool)
    {
        (uint64 epoch, uint32 chunks,) = ledger.openEpoch();
        endEpoch(epoch);
        bytes32 before = fingerprint();
        vm.prank(coordinator);
        try ledger.settle(epoch, chunks, charges, consents, payouts) {
            return true;
        } catch {
            assertEq(fingerprint(), before, "a refused batch changed something");
            return false;
        }
    }

    /// @dev The owner's last signature, the same with another sum, the coordinator's own, or noise.
    function signature(address person, uint64 spent, uint256 how)
        private
        view
        returns (ILedger.ConsentSignature memory s)
    {
        uint256 kind = (how >> 8) % 4;
        if (kind == 3) return ILedger.ConsentSignature(spent, bytes32(how), bytes32(how >> 16));
        if (kind == 2) return signConsent(coordinatorKey, person, spent);
        s = lastConsent[person];
        if (kind == 1) s.spent = spent;
    }

    function actions() public pure override returns (string[] memory names) {
        names = new string[](17);
        (names[0], names[1], names[2]) = ("deposit", "depositFor", "authorize");
        (names[3], names[4], names[5]) = ("requestWithdrawal", "withdraw", "claim");
        (names[6], names[7], names[8]) = ("cash", "addToBond", "wait");
        (names[9], names[10], names[11], names[12]) = ("sign", "charge", "chargeTheMost", "jump");
        (names[13], names[14], names[15], names[16]) = ("close", "cheat", "forgeCheque", "chargeWithin");
    }
}
