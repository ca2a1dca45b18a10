// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerWorld} from "./LedgerWorld.sol";

/// @notice A coordinator that sells, measures and settles as it should, in one chunk or in several, and that crashes between
/// chunks, sends a chunk twice, or in the wrong order. It stops for good when it vanishes (`LedgerVanished`).
contract LedgerHonest is LedgerWorld {
    /// @dev Cumulative nano-dollars: what a consumer used, and what an operator has to get for it.
    mapping(address person => uint64) public used;
    mapping(address person => uint64) public worked;

    /// @dev The rows of the payouts that a crash left unsent.
    bytes32[] private unsent;

    // -------------------------------------------------------------------------------------------------------------- Jobs

    /// @notice A consumer uses what it can pay; half of the consumers authorize it, the others sign for it later.
    function job(uint256 who, uint256 whom, uint64 price) external present counted("job") {
        serve(consumers[who % CONSUMERS], operators[whom % OPERATORS], price);
    }

    function serve(address person, address operator_, uint64 price) private {
        used[person] = chargeable(person); // What left in time is written off.
        if (available(person) == 0) {
            vm.prank(person);
            ledger.requestWithdrawal(0);
            give(person, 10 * DOLLAR, 0);
        }
        uint64 cost = uint64(bound(price, 1, available(person)));
        used[person] += cost;
        if (uint160(person) % 2 == 0 && used[person] > ledger.accountOf(person).authorized) {
            vm.prank(person);
            ledger.authorize(used[person]);
            granted[person] = used[person];
        }
        uint64 fee = (cost * 5 + 99) / 100;
        worked[operator_] += cost - fee;
        if (worked[operator_] > promised[operator_]) acknowledge(operator_, worked[operator_]);
    }

    function owe(address person) internal override {
        if (!isGone()) serve(consumers[total % CONSUMERS], person, uint64(total) * 1_000_003);
    }

    // -------------------------------------------------------------------------------------------------------- Settlement

    function settleAtOnce() external present counted("settleAtOnce") {
        if (unsent.length > 0) return finish();
        uint64 epoch = due();
        (bytes32[] memory charges, ILedger.ConsentSignature[] memory consents, bytes32[] memory payouts) = rows();
        ILedger.Closing memory closing_ = closing();
        vm.prank(coordinator);
        ledger.settleAndClose(epoch, 0, charges, consents, payouts, closing_);
        closedRoots[epoch] = closing_.receiptsRoot;
        assertEverybodyIsPaid();
        assertRefused(epoch, 0, charges, consents, none());
    }

    function settleInChunks() external present counted("settleInChunks") {
        if (unsent.length == 0) begin();
        finish();
    }

    function crashInTheMiddle() external present counted("crashInTheMiddle") {
        if (unsent.length == 0) begin();
    }

    /// @dev Sends the charges, and sends them again.
    function begin() internal {
        uint64 epoch = due();
        (bytes32[] memory charges, ILedger.ConsentSignature[] memory consents, bytes32[] memory payouts) = rows();
        assertRefused(epoch, 1, none(), noConsents(), payouts);
        vm.prank(coordinator);
        ledger.settle(epoch, 0, charges, consents, none());
        assertRefused(epoch, 0, charges, consents, none());
        delete unsent;
        for (uint256 i = 0; i < payouts.length; ++i) {
            unsent.push(payouts[i]);
        }
    }

    /// @dev Sends the payouts and closes. What was cashed meanwhile is not to be paid twice: the treasury gets it.
    function finish() internal {
        (uint64 epoch, uint32 chunks, uint64 pool) = ledger.openEpoch();
        bytes32[] memory payouts = payoutRows(pool);
        bytes32[] memory first = one(payouts[0]);
        vm.prank(coordinator);
        ledger.settle(epoch, chunks, none(), noConsents(), first);
        assertRefused(epoch, chunks, none(), noConsents(), first);
        ILedger.Closing memory closing_ = closing();
        vm.prank(coordinator);
        ledger.settleAndClose(epoch, chunks + 1, none(), noConsents(), payouts, closing_);
        closedRoots[epoch] = closing_.receiptsRoot;
        delete unsent;
    }

    // -------------------------------------------------------------------------------------------------------------- Rows

    function rows()
        private
        returns (bytes32[] memory charges, ILedger.ConsentSignature[] memory consents, bytes32[] memory payouts)
    {
        uint64 brought = 0;
        uint256 signed = 0;
        charges = new bytes32[](CONSUMERS + 1);
        consents = new ILedger.ConsentSignature[](CONSUMERS);
        for (uint256 i = 0; i < CONSUMERS; ++i) {
            ILedger.Account memory account = ledger.accountOf(consumers[i]);
            uint64 spent = chargeable(consumers[i]);
            brought += spent - account.spent;
            if (spent > account.authorized) {
                charges[i] = chargeWithConsent(consumers[i], spent);
                consents[signed++] = consent(consumers[i], spent, i % 2 == 0);
            } else {
                charges[i] = charge(consumers[i], spent);
            }
        }
        uint64 due_ = outstanding();
        uint64 advance = due_ > brought ? due_ - brought : 0;
        charges[CONSUMERS] = charge(treasury, ledger.accountOf(treasury).spent + advance);
        payouts = payoutRows(brought + advance);
        assembly ("memory-safe") {
            mstore(consents, signed)
        }
    }

    /// @dev Every operator gets what it has to get, and the treasury all the rest of the pool.
    function payoutRows(uint64 pool) private view returns (bytes32[] memory payouts) {
        payouts = new bytes32[](OPERATORS + 1);
        for (uint256 i = 0; i < OPERATORS; ++i) {
            uint64 earned = ledger.accountOf(operators[i]).earned;
            uint64 target = worked[operators[i]] > earned ? worked[operators[i]] : earned;
            if (target - earned > pool) target = earned + pool;
            pool -= target - earned;
            payouts[i] = payout(operators[i], target);
        }
        payouts[OPERATORS] = payout(treasury, ledger.accountOf(treasury).earned + pool);
    }

    function outstanding() private view returns (uint64 sum) {
        for (uint256 i = 0; i < OPERATORS; ++i) {
            uint64 earned = ledger.accountOf(operators[i]).earned;
            if (worked[operators[i]] > earned) sum += worked[operators[i]] - earned;
        }
    }

    /// @dev What a consumer used, as far as it is still there: the rest left in time, and is the coordinator's loss.
    function chargeable(address person) private view returns (uint64) {
        ILedger.Account memory account = ledger.accountOf(person);
        uint64 most = account.spent + account.balance;
        return used[person] < most ? used[person] : most;
    }

    /// @dev A request counts as gone from the moment it is seen.
    function available(address person) private view returns (uint64) {
        ILedger.Account memory account = ledger.accountOf(person);
        (uint64 requested,) = ledger.exitOf(person);
        uint64 promised_ = used[person] > account.spent ? used[person] - account.spent : 0;
        uint64 gone = requested > type(uint64).max - promised_ ? type(uint64).max : requested + promised_;
        return account.balance > gone ? account.balance - gone : 0;
    }

    /// @dev Returns an epoch that is over: the next one, or, passing over some, the last one that ended.
    function due() private returns (uint64 epoch) {
        epoch = ledger.nextEpoch();
        uint64 running = uint64(block.timestamp - GENESIS) / HOUR;
        if (running > epoch + 1 && total % 2 == 0) epoch = running - 1;
        endEpoch(epoch);
    }

    // ------------------------------------------------------------------------------------------------------------ Checks

    function assertEverybodyIsPaid() private view {
        for (uint256 i = 0; i < OPERATORS; ++i) {
            assertGe(ledger.accountOf(operators[i]).earned, worked[operators[i]], "an operator was not paid");
        }
    }

    /// @dev A batch out of its turn reverts and changes nothing.
    function assertRefused(
        uint64 epoch,
        uint32 chunk,
        bytes32[] memory charges,
        ILedger.ConsentSignature[] memory consents,
        bytes32[] memory payouts
    ) private {
        bytes32 before = fingerprint();
        vm.prank(coordinator);
        try ledger.settle(epoch, chunk, charges, consents, payouts) {
            assertTrue(false, "a batch out of its turn was taken");
        } catch {}
        assertEq(fingerprint(), before, "a refused batch changed something");
    }

    /// @dev A coordinator that is gone does nothing.
    modifier present() {
        if (!isGone()) _;
    }

    function isGone() public view virtual returns (bool) {
        return false;
    }

    function interfere() internal override {}

    function actions() public view virtual override returns (string[] memory names) {
        names = new string[](13);
        (names[0], names[1], names[2]) = ("deposit", "depositFor", "authorize");
        (names[3], names[4], names[5]) = ("requestWithdrawal", "withdraw", "claim");
        (names[6], names[7], names[8]) = ("cash", "addToBond", "wait");
        (names[9], names[10], names[11], names[12]) = ("job", "settleAtOnce", "settleInChunks", "crashInTheMiddle");
    }
}
