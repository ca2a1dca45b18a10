// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {ILedger} from "./interfaces/ILedger.sol";
import {Books} from "./libraries/Books.sol";
import {Rows} from "./libraries/Rows.sol";
import {Vouchers} from "./libraries/Vouchers.sol";

/// @title Ledger
/// @notice See `ILedger`.
/// @dev At any time the Ledger holds at least Σ balance + Σ (earned − claimed) + the open epoch's pool + bond, in tokens.
/// Every function that moves tokens is guarded, because a deposit is measured by what arrived: a token that called back in
/// between would have its inner transfer counted twice.
contract Ledger is ILedger, EIP712, Ownable2Step, ReentrancyGuardTransient {
    using Rows for bytes32;
    using SafeERC20 for IERC20;

    /// @dev Nano-dollars in one unit of the token.
    uint64 private constant SCALE = 1000;
    /// @dev No time is longer: more is a slip of the unit, and a thaw beyond reason would be a way to keep deposits.
    uint64 private constant LONGEST = 365 days;

    /// @dev A request for a withdrawal: nano-dollars, and when it is payable.
    struct Exit {
        uint64 amount;
        uint64 payableAt;
    }

    /// @dev What was claimed, in nano-dollars, and where to (0: the account itself); one word.
    struct Payout {
        uint64 claimed;
        address to;
    }

    /// @dev The first epoch that is not closed, the chunks of it applied so far, and its pool in nano-dollars; one word.
    struct Progress {
        uint64 epoch;
        uint32 chunks;
        uint64 pool;
    }

    address public immutable token;
    uint64 public immutable thaw;
    uint64 public immutable genesis;
    uint64 public immutable epochLength;
    uint64 public immutable settlementLag;
    uint64 public immutable bondRelease;

    mapping(address account => Books) private _books;
    mapping(address account => Exit) private _exits;
    mapping(address account => Payout) private _payouts;
    mapping(address account => mapping(address key => bool)) public isConsentKey;

    Progress private _progress;
    mapping(uint64 epoch => bytes32) private _receiptsRoots;
    bytes32 public auditSecretHash;

    address public coordinator;
    uint64 public bondReleasableAt;
    uint64 public bond;
    mapping(address key => uint64) public signsBefore;

    modifier onlyCoordinator() {
        if (msg.sender != coordinator) revert Ledger_NotCoordinator(msg.sender, coordinator);
        _;
    }

    constructor(Config memory config) EIP712("Tallystick", "1") Ownable(config.owner) {
        _checkTimes(config);
        if (config.coordinator == address(0)) revert Ledger_ZeroAddress();
        if (config.firstAuditSecretHash == 0) revert Ledger_NoNextAuditSecret();
        uint8 decimals = IERC20Metadata(config.token).decimals();
        if (decimals != 6) revert Ledger_BadConfig("decimals", decimals);

        token = config.token;
        thaw = config.thaw;
        genesis = config.genesis;
        epochLength = config.epochLength;
        settlementLag = config.settlementLag;
        bondRelease = config.bondRelease;
        auditSecretHash = config.firstAuditSecretHash;
        _appoint(config.coordinator);
    }

    // --------------------------------------------------------------------------------------------------------- Consumers

    /// @inheritdoc ILedger
    function deposit(uint256 units, uint64 authorized) external nonReentrant {
        _credit(msg.sender, _take(units), authorized);
    }

    /// @inheritdoc ILedger
    function depositFor(address account, uint256 units) external nonReentrant {
        if (account == address(0)) revert Ledger_ZeroAddress();
        _credit(account, _take(units), 0);
    }

    /// @inheritdoc ILedger
    function depositWithPermit(uint256 units, uint64 authorized, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        // A permit that somebody else sent first has already set the allowance; the transfer tells whether it suffices.
        // Nothing that is written below was read above, and the guard keeps a token from coming back in between.
        // slither-disable-next-line reentrancy-benign
        try IERC20Permit(token).permit(msg.sender, address(this), units, deadline, v, r, s) {} catch {}
        _credit(msg.sender, _take(units), authorized);
    }

    /// @inheritdoc ILedger
    function authorize(uint64 authorized) external {
        Books books = _books[msg.sender];
        if (authorized < books.authorized()) revert Ledger_RightGoesBack(authorized, books.authorized());

        _books[msg.sender] = books.withAuthorized(authorized);
        emit Authorized(msg.sender, authorized);
    }

    /// @inheritdoc ILedger
    function addConsentKey(address key) external {
        if (key == address(0)) revert Ledger_ZeroAddress();

        isConsentKey[msg.sender][key] = true;
        emit ConsentKeyAdded(msg.sender, key);
    }

    /// @inheritdoc ILedger
    function requestWithdrawal(uint64 amount) external {
        uint64 payableAt = amount == 0 ? 0 : uint64(block.timestamp) + thaw;

        _exits[msg.sender] = Exit(amount, payableAt);
        emit WithdrawalRequested(msg.sender, amount, payableAt);
    }

    /// @inheritdoc ILedger
    function withdraw() external nonReentrant {
        // Checks.
        Exit memory exit = _exits[msg.sender];
        if (exit.amount == 0) revert Ledger_NothingRequested(msg.sender);
        // Here and below: a validator's few seconds do not matter where times are hours.
        // slither-disable-next-line timestamp
        if (block.timestamp < exit.payableAt) revert Ledger_StillThawing(msg.sender, exit.payableAt);

        // Effects.
        Books books = _books[msg.sender];
        uint64 amount = _wholeUnitsDown(exit.amount < books.balance() ? exit.amount : books.balance());
        books = books.minusBalance(amount);
        if (books.balance() < SCALE && books.authorized() != books.spent()) {
            books = books.withAuthorized(books.spent());
            emit Authorized(msg.sender, books.spent());
        }
        _books[msg.sender] = books;
        delete _exits[msg.sender];
        emit Withdrawn(msg.sender, amount / SCALE, amount);

        // Interactions.
        if (amount > 0) IERC20(token).safeTransfer(msg.sender, amount / SCALE);
    }

    // ------------------------------------------------------------------------------------------------------- Coordinator

    /// @inheritdoc ILedger
    function settle(
        uint64 epoch,
        uint32 chunk,
        bytes32[] calldata charges,
        ConsentSignature[] calldata consents,
        bytes32[] calldata payouts
    ) external onlyCoordinator {
        uint64 pool = _applyRows(epoch, chunk, charges, consents, payouts);
        _progress = Progress(epoch, chunk + 1, pool);
    }

    /// @inheritdoc ILedger
    function settleAndClose(
        uint64 epoch,
        uint32 chunk,
        bytes32[] calldata charges,
        ConsentSignature[] calldata consents,
        bytes32[] calldata payouts,
        Closing calldata closing
    ) external onlyCoordinator {
        uint64 pool = _applyRows(epoch, chunk, charges, consents, payouts);
        if (pool != 0) revert Ledger_PoolLeft(epoch, pool);
        bytes32 given = keccak256(abi.encode(closing.auditSecret));
        if (given != auditSecretHash) revert Ledger_WrongAuditSecret(given, auditSecretHash);
        if (closing.nextAuditSecretHash == 0) revert Ledger_NoNextAuditSecret();

        _progress = Progress(epoch + 1, 0, 0);
        _receiptsRoots[epoch] = closing.receiptsRoot;
        auditSecretHash = closing.nextAuditSecretHash;
        emit EpochClosed(
            epoch,
            closing.receiptsRoot,
            closing.receiptCount,
            closing.fileHash,
            closing.auditSecret,
            closing.nextAuditSecretHash
        );
    }

    // --------------------------------------------------------------------------------------------------------- Providers

    /// @inheritdoc ILedger
    function claim(address account) external nonReentrant {
        // Checks.
        Payout memory payout = _payouts[account];
        uint64 unclaimed = _books[account].earned() - payout.claimed;
        uint64 amount = _wholeUnitsDown(unclaimed);
        if (amount == 0) revert Ledger_NothingToClaim(account, unclaimed);

        // Effects.
        address to = payout.to == address(0) ? account : payout.to;
        _payouts[account].claimed = payout.claimed + amount;
        emit Claimed(account, to, amount / SCALE, amount);

        // Interactions.
        IERC20(token).safeTransfer(to, amount / SCALE);
    }

    /// @inheritdoc ILedger
    function setPayoutAddress(address to) external {
        if (to == address(0)) revert Ledger_ZeroAddress();

        _payouts[msg.sender].to = to;
        emit PayoutAddressSet(msg.sender, to);
    }

    /// @inheritdoc ILedger
    function cash(address account, uint64 epoch, uint64 earned, bytes calldata signature) external {
        // Checks.
        bytes32 digest = _hashTypedDataV4(Vouchers.acknowledgement(account, epoch, earned));
        // An invalid signature recovers 0, which never was the coordinator.
        // slither-disable-next-line unused-return
        (address signer,,) = ECDSA.tryRecover(digest, signature);
        if (epoch >= signsBefore[signer]) revert Ledger_ChequeForged(account, epoch, signer);
        uint256 overdueAfter = epochEnd(epoch) + settlementLag;
        // slither-disable-next-line timestamp
        if (epoch >= _progress.epoch && block.timestamp <= overdueAfter) {
            revert Ledger_NotCashableYet(epoch, overdueAfter);
        }
        Books books = _books[account];
        if (earned <= books.earned()) revert Ledger_NothingToCash(account, earned, books.earned());
        uint64 owed = earned - books.earned();
        if (bond == 0) revert Ledger_BondEmpty(account, owed);

        // Effects.
        uint64 paid = owed < bond ? owed : bond;
        bond -= paid;
        _books[account] = books.plusEarned(paid);
        emit Cashed(account, epoch, earned, paid, owed - paid);
    }

    // -------------------------------------------------------------------------------------------------------------- Bond

    /// @inheritdoc ILedger
    function depositBond(uint256 units) external nonReentrant {
        uint64 amount = _take(units);
        bond = _sum(bond, amount);
        emit BondDeposited(msg.sender, amount, bond);
    }

    /// @inheritdoc ILedger
    function setCoordinator(address next) external onlyOwner {
        address last = coordinator;
        if (next == last) revert Ledger_SameCoordinator(next);

        // What it has signed is promised for epochs to come. The bond stays as long for it as for one that steps down.
        if (last != address(0)) signsBefore[last] = _currentEpoch() + 1 + bondRelease / epochLength;
        if (next == address(0)) {
            coordinator = address(0);
            bondReleasableAt = uint64(block.timestamp) + bondRelease;
            emit CoordinatorSet(address(0), bondReleasableAt);
        } else {
            _appoint(next);
        }
    }

    /// @inheritdoc ILedger
    function commitAuditSecret(bytes32 hash) external onlyOwner {
        if (hash == 0) revert Ledger_NoNextAuditSecret();

        auditSecretHash = hash;
        emit AuditSecretCommitted(hash);
    }

    /// @inheritdoc ILedger
    function releaseBond(address to) external onlyOwner nonReentrant {
        // Checks.
        if (to == address(0)) revert Ledger_ZeroAddress();
        uint64 releasableAt = bondReleasableAt;
        // slither-disable-next-line timestamp
        if (releasableAt == 0 || block.timestamp < releasableAt) revert Ledger_BondLocked(releasableAt);

        // Effects.
        uint64 amount = _wholeUnitsDown(bond);
        bond -= amount;
        emit BondReleased(to, amount / SCALE, amount);

        // Interactions.
        IERC20(token).safeTransfer(to, amount / SCALE);
    }

    // ------------------------------------------------------------------------------------------------------------- Views

    /// @inheritdoc ILedger
    function accountOf(address account) external view returns (Account memory) {
        return _books[account].open();
    }

    /// @inheritdoc ILedger
    function claimedOf(address account) external view returns (uint64) {
        return _payouts[account].claimed;
    }

    /// @inheritdoc ILedger
    function exitOf(address account) external view returns (uint64 amount, uint64 payableAt) {
        Exit memory exit = _exits[account];
        return (exit.amount, exit.payableAt);
    }

    /// @inheritdoc ILedger
    function payoutAddressOf(address account) external view returns (address) {
        address to = _payouts[account].to;
        return to == address(0) ? account : to;
    }

    /// @inheritdoc ILedger
    function epochOf(uint64 epoch) external view returns (bool closed, bytes32 receiptsRoot) {
        return (epoch < _progress.epoch, _receiptsRoots[epoch]);
    }

    /// @inheritdoc ILedger
    function nextEpoch() external view returns (uint64) {
        return _progress.epoch;
    }

    /// @inheritdoc ILedger
    function openEpoch() external view returns (uint64 epoch, uint32 chunks, uint64 pool) {
        Progress memory progress = _progress;
        return (progress.epoch, progress.chunks, progress.pool);
    }

    /// @inheritdoc ILedger
    function epochEnd(uint64 epoch) public view returns (uint256) {
        return genesis + (uint256(epoch) + 1) * epochLength;
    }

    /// @inheritdoc ILedger
    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // ---------------------------------------------------------------------------------------------------------- Deposits

    /// @dev Takes units from the caller. Returns what arrived, in nano-dollars.
    function _take(uint256 units) private returns (uint64) {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), units);
        uint256 arrived = IERC20(token).balanceOf(address(this)) - before;
        if (arrived == 0) revert Ledger_NothingArrived();
        if (arrived > type(uint64).max / SCALE) revert Ledger_TooMuch(arrived);
        // Bounded by the line above.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(arrived) * SCALE;
    }

    function _credit(address to, uint64 amount, uint64 authorized) private {
        Books books = _books[to];
        uint64 balance = _sum(books.balance(), amount);
        books = books.plusBalance(amount);
        if (authorized > books.authorized()) {
            books = books.withAuthorized(authorized);
            emit Authorized(to, authorized);
        }
        _books[to] = books;
        emit Deposited(to, msg.sender, amount, balance);
    }

    function _sum(uint64 a, uint64 b) private pure returns (uint64) {
        if (b > type(uint64).max - a) revert Ledger_TooMuch(uint256(a) + b);
        return a + b;
    }

    /// @dev Returns the part of an amount that is whole units of the token.
    function _wholeUnitsDown(uint64 amount) private pure returns (uint64) {
        return amount - amount % SCALE;
    }

    // -------------------------------------------------------------------------------------------------------- Settlement

    /// @dev Applies the rows of one chunk. Returns what is in the epoch's pool afterwards; the caller stores it.
    function _applyRows(
        uint64 epoch,
        uint32 chunk,
        bytes32[] calldata charges,
        ConsentSignature[] calldata consents,
        bytes32[] calldata payouts
    ) private returns (uint64 pool) {
        Progress memory progress = _progress;
        _checkTurn(progress, epoch, chunk);
        uint256 moved = _applyCharges(charges, consents);
        uint256 before = progress.pool + moved;
        if (before > type(uint64).max) revert Ledger_TooMuch(before);
        // Bounded by the line above.
        // forge-lint: disable-next-line(unsafe-typecast)
        pool = _applyPayouts(payouts, uint64(before));
        emit ChunkSettled(epoch, chunk, uint32(charges.length), uint32(payouts.length), uint64(moved));
    }

    function _checkTurn(Progress memory progress, uint64 epoch, uint32 chunk) private view {
        if (epoch < progress.epoch) revert Ledger_EpochClosed(epoch, progress.epoch);
        if (epoch > progress.epoch && progress.chunks > 0) revert Ledger_EpochOpen(epoch, progress.epoch);
        if (chunk != progress.chunks) revert Ledger_WrongChunk(epoch, chunk, progress.chunks);
        uint256 end = epochEnd(epoch);
        // slither-disable-next-line timestamp
        if (block.timestamp < end) revert Ledger_EpochNotOver(epoch, end);
    }

    /// @dev Returns how much moved from the accounts' balances.
    function _applyCharges(bytes32[] calldata charges, ConsentSignature[] calldata consents)
        private
        returns (uint256 moved)
    {
        bytes32 domainSeparator = _domainSeparatorV4();
        uint256 used = 0;
        for (uint256 row = 0; row < charges.length; ++row) {
            bytes32 charge = charges[row];
            address account = charge.account();
            Books books = _books[account];
            if (_isWithConsent(charge, row)) {
                if (used == consents.length) revert Ledger_ConsentMissing(row, account);
                uint64 consented = _checkedConsent(domainSeparator, row, account, consents[used++]);
                if (consented > books.authorized()) books = books.withAuthorized(consented);
            }
            uint64 amount = _chargeable(books, charge, row);
            moved += amount;
            _books[account] = books.charged(amount);
        }
        if (used != consents.length) revert Ledger_ConsentsLeft(used, consents.length);
    }

    function _isWithConsent(bytes32 charge, uint256 row) private pure returns (bool) {
        uint32 flags = charge.flags();
        if (flags > Rows.WITH_CONSENT) revert Ledger_ChargeFlagsUnknown(row, charge.account(), flags);
        return flags == Rows.WITH_CONSENT;
    }

    /// @dev Returns up to where the account consents to be charged.
    function _checkedConsent(bytes32 domainSeparator, uint256 row, address account, ConsentSignature calldata consent)
        private
        view
        returns (uint64 spent)
    {
        spent = consent.spent;
        bytes32 digest = MessageHashUtils.toTypedDataHash(domainSeparator, Vouchers.consent(account, spent));
        // An invalid signature recovers 0, which a row may name as its account.
        // slither-disable-next-line unused-return
        (address signer,,) = ECDSA.tryRecover(digest, consent.r, consent.vs);
        if (signer == address(0) || (signer != account && !isConsentKey[account][signer])) {
            revert Ledger_ConsentForged(row, account, spent, signer);
        }
    }

    /// @dev Returns how much a charge moves, if balance and right allow it.
    function _chargeable(Books books, bytes32 charge, uint256 row) private pure returns (uint64 amount) {
        uint64 spent = charge.amount();
        if (spent < books.spent()) revert Ledger_ChargeGoesBack(row, charge.account(), spent, books.spent());
        if (spent > books.authorized()) {
            revert Ledger_ChargeBeyondRight(row, charge.account(), spent, books.authorized());
        }
        amount = spent - books.spent();
        if (amount > books.balance()) {
            revert Ledger_ChargeBeyondBalance(row, charge.account(), amount, books.balance());
        }
    }

    /// @dev Returns what is left of the pool.
    function _applyPayouts(bytes32[] calldata payouts, uint64 pool) private returns (uint64) {
        for (uint256 row = 0; row < payouts.length; ++row) {
            bytes32 payout = payouts[row];
            if (payout.flags() != 0) revert Ledger_PayoutFlagsUnknown(row, payout.account(), payout.flags());
            Books books = _books[payout.account()];
            uint64 earned = payout.amount();
            uint64 recorded = books.earned();
            if (earned < recorded) revert Ledger_PayoutGoesBack(row, payout.account(), earned, recorded);
            uint64 amount = earned - recorded;
            if (amount > pool) revert Ledger_PoolShort(row, payout.account(), amount, pool);
            pool -= amount;
            _books[payout.account()] = books.plusEarned(amount);
        }
        return pool;
    }

    // ------------------------------------------------------------------------------------------------------------- Other

    function _appoint(address next) private {
        coordinator = next;
        bondReleasableAt = 0;
        signsBefore[next] = type(uint64).max;
        emit CoordinatorSet(next, 0);
    }

    /// @dev Before the genesis everything is signed for epoch 0.
    function _currentEpoch() private view returns (uint64) {
        uint64 time = uint64(block.timestamp);
        return time < genesis ? 0 : (time - genesis) / epochLength;
    }

    function _checkTimes(Config memory config) private view {
        if (config.genesis == 0 || config.genesis > block.timestamp + LONGEST) {
            revert Ledger_BadConfig("genesis", config.genesis);
        }
        if (config.epochLength == 0) revert Ledger_BadConfig("epochLength", config.epochLength);
        if (config.settlementLag == 0) revert Ledger_BadConfig("settlementLag", config.settlementLag);
        uint256 overdue = uint256(config.epochLength) + config.settlementLag;
        // A withdrawal must not outrun the charge for what was used before it was asked for, nor the bond the cheques.
        if (config.thaw <= overdue || config.thaw > LONGEST) revert Ledger_BadConfig("thaw", config.thaw);
        if (config.bondRelease <= overdue || config.bondRelease > LONGEST) {
            revert Ledger_BadConfig("bondRelease", config.bondRelease);
        }
    }
}
