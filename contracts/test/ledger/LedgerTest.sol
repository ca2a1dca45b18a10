// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {Ledger} from "../../src/Ledger.sol";
import {TestUSD} from "../../src/TestUSD.sol";
import {ILedger} from "../../src/interfaces/ILedger.sol";
import {Rows} from "../../src/libraries/Rows.sol";
import {Vouchers} from "../../src/libraries/Vouchers.sol";

/// @notice What the tests of the Ledger share: a deployed Ledger, people with keys, and builders of valid arguments.
abstract contract LedgerTest is Test {
    uint64 internal constant HOUR = 3600;
    uint64 internal constant GENESIS = 1_800_000_000;
    uint64 internal constant LAG = 2 * HOUR;
    uint64 internal constant THAW = 24 * HOUR;
    uint64 internal constant BOND_RELEASE = 48 * HOUR;
    uint64 internal constant DOLLAR = 1e9;
    uint64 internal constant UNITS = 1e6;
    bytes32 internal constant SECRET = keccak256("audit secret of epoch 0");
    bytes32 internal constant NEXT_SECRET = keccak256("audit secret of epoch 1");
    bytes32 internal constant ROOT = keccak256("a receipts root");

    TestUSD internal token;
    Ledger internal ledger;

    address internal owner = makeAddr("owner");
    address internal coordinator;
    uint256 internal coordinatorKey;
    address internal consumer;
    uint256 internal consumerKey;
    address internal operator = makeAddr("operator");
    address internal stranger;
    uint256 internal strangerKey;

    function setUp() public virtual {
        vm.warp(GENESIS);
        (coordinator, coordinatorKey) = makeAddrAndKey("coordinator");
        (consumer, consumerKey) = makeAddrAndKey("consumer");
        (stranger, strangerKey) = makeAddrAndKey("stranger");
        token = new TestUSD();
        ledger = new Ledger(config(address(token)));
    }

    function config(address token_) internal view returns (ILedger.Config memory) {
        return ILedger.Config({
            token: token_,
            owner: owner,
            coordinator: coordinator,
            thaw: THAW,
            genesis: GENESIS,
            epochLength: HOUR,
            settlementLag: LAG,
            bondRelease: BOND_RELEASE,
            firstAuditSecretHash: secretHash(SECRET)
        });
    }

    function secretHash(bytes32 secret) internal pure returns (bytes32) {
        return keccak256(abi.encode(secret));
    }

    // ------------------------------------------------------------------------------------------------------------ Money

    /// @dev Gives the account a balance of `amount` nano-dollars (whole units) and a right of `authorized`.
    function fund(address account, uint64 amount, uint64 authorized) internal {
        uint256 units = amount / 1000;
        token.mint(account, units);
        vm.startPrank(account);
        token.approve(address(ledger), units);
        ledger.deposit(units, authorized);
        vm.stopPrank();
    }

    function fundBond(uint64 amount) internal {
        token.mint(owner, amount / 1000);
        vm.startPrank(owner);
        token.approve(address(ledger), amount / 1000);
        ledger.depositBond(amount / 1000);
        vm.stopPrank();
    }

    /// @dev Charges a fresh consumer `amount` and pays it to `to`, closing the next epoch.
    function earn(address to, uint64 amount) internal {
        address payer = vm.addr(uint256(keccak256(abi.encode("payer", ledger.nextEpoch()))));
        uint64 whole = (amount / 1000 + 1) * 1000;
        fund(payer, whole, whole);
        uint64 epoch = ledger.nextEpoch();
        endEpoch(epoch);
        uint64 earned = ledger.accountOf(to).earned + amount;
        close(epoch, 0, one(charge(payer, amount)), one(payout(to, earned)));
    }

    function endEpoch(uint64 epoch) internal {
        uint256 end = ledger.epochEnd(epoch);
        if (block.timestamp < end) vm.warp(end);
    }

    // ------------------------------------------------------------------------------------------------------- Settlement

    function settle(uint64 epoch, uint32 chunk, bytes32[] memory charges, bytes32[] memory payouts) internal {
        vm.prank(coordinator);
        ledger.settle(epoch, chunk, charges, noConsents(), payouts);
    }

    /// @dev Closes with the secrets in their order: SECRET, then NEXT_SECRET for ever.
    function close(uint64 epoch, uint32 chunk, bytes32[] memory charges, bytes32[] memory payouts) internal {
        ILedger.Closing memory closing_ = closing();
        vm.prank(coordinator);
        ledger.settleAndClose(epoch, chunk, charges, noConsents(), payouts, closing_);
    }

    function closing() internal view returns (ILedger.Closing memory) {
        bool isFirst = ledger.auditSecretHash() == secretHash(SECRET);
        return ILedger.Closing({
            receiptsRoot: ROOT,
            receiptCount: 7,
            fileHash: keccak256("the epoch's file"),
            auditSecret: isFirst ? SECRET : NEXT_SECRET,
            nextAuditSecretHash: secretHash(NEXT_SECRET)
        });
    }

    function charge(address account, uint64 spent) internal pure returns (bytes32) {
        return Rows.pack(account, spent, 0);
    }

    function chargeWithConsent(address account, uint64 spent) internal pure returns (bytes32) {
        return Rows.pack(account, spent, Rows.WITH_CONSENT);
    }

    function payout(address account, uint64 earned) internal pure returns (bytes32) {
        return Rows.pack(account, earned, 0);
    }

    function none() internal pure returns (bytes32[] memory) {
        return new bytes32[](0);
    }

    function one(bytes32 row) internal pure returns (bytes32[] memory rows) {
        rows = new bytes32[](1);
        rows[0] = row;
    }

    function two(bytes32 first, bytes32 second) internal pure returns (bytes32[] memory rows) {
        rows = new bytes32[](2);
        rows[0] = first;
        rows[1] = second;
    }

    // ------------------------------------------------------------------------------------------------------- Signatures

    function noConsents() internal pure returns (ILedger.ConsentSignature[] memory) {
        return new ILedger.ConsentSignature[](0);
    }

    function oneConsent(ILedger.ConsentSignature memory consent)
        internal
        pure
        returns (ILedger.ConsentSignature[] memory consents)
    {
        consents = new ILedger.ConsentSignature[](1);
        consents[0] = consent;
    }

    function signConsent(uint256 key, address account, uint64 spent)
        internal
        view
        returns (ILedger.ConsentSignature memory)
    {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, digest(Vouchers.consent(account, spent)));
        return ILedger.ConsentSignature(spent, r, vs);
    }

    function signCheque(uint256 key, address account, uint64 epoch, uint64 earned)
        internal
        view
        returns (bytes memory)
    {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest(Vouchers.acknowledgement(account, epoch, earned)));
        return abi.encodePacked(r, s, v);
    }

    function digest(bytes32 structHash) internal view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(ledger.DOMAIN_SEPARATOR(), structHash);
    }

    // ------------------------------------------------------------------------------------------------------- Assertions

    function assertAccount(address account, uint64 balance, uint64 spent, uint64 authorized, uint64 earned)
        internal
        view
    {
        ILedger.Account memory books = ledger.accountOf(account);
        assertEq(books.balance, balance, "balance");
        assertEq(books.spent, spent, "spent");
        assertEq(books.authorized, authorized, "authorized");
        assertEq(books.earned, earned, "earned");
    }
}
