// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title ILedger
/// @notice Holds the consumers' deposits and pays the providers.
///
/// Amounts inside are nano-dollars (1e-9 USD). Token units (6 decimals) exist only at the door: a unit comes in as 1000
/// nano-dollars, and goes out rounded down, the rest staying with its account. A parameter in units is called `units`.
///
/// `spent`, `authorized` and `earned` are cumulative and never go back, except that a consumer who leaves with everything
/// takes back the part of its right that was not spent. A row that is repeated therefore moves nothing.
interface ILedger {
    /// @notice The books of one account, in nano-dollars.
    /// @param balance Deposited, and neither charged nor withdrawn yet.
    /// @param spent All that was ever charged.
    /// @param authorized How far `spent` may go; never less than `spent`.
    /// @param earned All that was ever credited, claimed or not.
    struct Account {
        uint64 balance;
        uint64 spent;
        uint64 authorized;
        uint64 earned;
    }

    /// @notice `Consent(account, spent)` as signed by the account or one of its consent keys, in EIP-2098 form.
    struct ConsentSignature {
        uint64 spent;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice What is published when an epoch closes.
    /// @param receiptsRoot Root of the tree of the epoch's receipts.
    /// @param receiptCount Number of receipts under the root.
    /// @param fileHash Hash of the epoch's file.
    /// @param auditSecret The secret that chose this epoch's audits, committed to when the epoch before it closed.
    /// @param nextAuditSecretHash `keccak256(abi.encode(secret))` of the secret of the next epoch that will be closed.
    struct Closing {
        bytes32 receiptsRoot;
        uint64 receiptCount;
        bytes32 fileHash;
        bytes32 auditSecret;
        bytes32 nextAuditSecretHash;
    }

    /// @notice What is fixed when the contract is deployed. Times are seconds.
    /// @param token The dollar token; 6 decimals, no rebasing.
    /// @param owner The coordinator operator's cold key: names the coordinator and takes the bond back.
    /// @param coordinator The hot key that settles and signs cheques.
    /// @param thaw From a request for a withdrawal to its payment.
    /// @param genesis When epoch 0 starts, in seconds since 1970.
    /// @param epochLength How long an epoch is.
    /// @param settlementLag From the end of an epoch until it is overdue.
    /// @param bondRelease From stepping down until the bond may leave.
    /// @param firstAuditSecretHash `keccak256(abi.encode(secret))` of the first epoch that will be closed.
    struct Config {
        address token;
        address owner;
        address coordinator;
        uint64 thaw;
        uint64 genesis;
        uint64 epochLength;
        uint64 settlementLag;
        uint64 bondRelease;
        bytes32 firstAuditSecretHash;
    }

    // ------------------------------------------------------------------------------------------------------------ Events

    /// @notice `amount` nano-dollars arrived from `from`; the account's balance is now `balance`.
    event Deposited(address indexed account, address indexed from, uint64 amount, uint64 balance);
    /// @notice The account's right is now `authorized`, by its owner's own transaction. Also emitted when leaving takes the
    /// right back. A right raised by a consent is not announced one by one: it shows in the batch's calldata.
    event Authorized(address indexed account, uint64 authorized);
    event ConsentKeyAdded(address indexed account, address indexed key);
    /// @notice A batch was applied: so many rows, and `moved` nano-dollars from consumers' balances to the epoch's pool.
    event ChunkSettled(uint64 indexed epoch, uint32 chunk, uint32 charges, uint32 payouts, uint64 moved);
    event EpochClosed(
        uint64 indexed epoch,
        bytes32 receiptsRoot,
        uint64 receiptCount,
        bytes32 fileHash,
        bytes32 auditSecret,
        bytes32 nextAuditSecretHash
    );
    /// @notice `amount` 0 means that the request was taken back; `payableAt` is then 0 too.
    event WithdrawalRequested(address indexed account, uint64 amount, uint64 payableAt);
    /// @notice `units` of the token left, which is `amount` nano-dollars.
    event Withdrawn(address indexed account, uint256 units, uint64 amount);
    /// @notice `units` of the token left for `to`, which is `amount` nano-dollars.
    event Claimed(address indexed account, address indexed to, uint256 units, uint64 amount);
    event PayoutAddressSet(address indexed account, address indexed to);
    event BondDeposited(address indexed from, uint64 amount, uint64 bond);
    /// @notice A cheque that says `earned` was cashed: `paid` was credited from the bond, `short` was not there.
    event Cashed(address indexed account, uint64 indexed epoch, uint64 earned, uint64 paid, uint64 short);
    /// @notice `coordinator` 0 means that it stepped down; the bond may leave from `bondReleasableAt` on (0: not at all).
    event CoordinatorSet(address indexed coordinator, uint64 bondReleasableAt);
    /// @notice The owner replaced the commitment to the next audit secret outside a closing.
    event AuditSecretCommitted(bytes32 auditSecretHash);
    event BondReleased(address indexed to, uint256 units, uint64 amount);

    // ------------------------------------------------------------------------------------------------------------ Errors

    /// @notice A field of the configuration makes no sense.
    error Ledger_BadConfig(string field, uint256 value);
    error Ledger_ZeroAddress();
    /// @notice No unit of the token arrived.
    error Ledger_NothingArrived();
    /// @notice An amount in nano-dollars does not fit the books (uint64).
    error Ledger_TooMuch(uint256 amount);
    /// @notice A right cannot shrink; leave with everything to take it back.
    error Ledger_RightGoesBack(uint64 given, uint64 recorded);
    error Ledger_NotCoordinator(address caller, address coordinator);

    /// @notice The epoch ends at `end`, which is not over.
    error Ledger_EpochNotOver(uint64 epoch, uint256 end);
    /// @notice The epoch is closed; `next` is the first that is not.
    error Ledger_EpochClosed(uint64 epoch, uint64 next);
    /// @notice Another epoch is settled in part and must be closed first.
    error Ledger_EpochOpen(uint64 epoch, uint64 open);
    error Ledger_WrongChunk(uint64 epoch, uint32 given, uint32 expected);
    /// @notice The batch closes the epoch with money of it not paid out.
    error Ledger_PoolLeft(uint64 epoch, uint64 pool);
    /// @notice The audit secret does not hash to what was committed.
    error Ledger_WrongAuditSecret(bytes32 given, bytes32 committed);
    error Ledger_NoNextAuditSecret();

    /// @notice A row carries flags that mean nothing. `row` counts from 0 within the batch's charges (or payouts).
    error Ledger_ChargeFlagsUnknown(uint256 row, address account, uint32 flags);
    error Ledger_PayoutFlagsUnknown(uint256 row, address account, uint32 flags);
    /// @notice The charge says less than what was charged already.
    error Ledger_ChargeGoesBack(uint256 row, address account, uint64 given, uint64 recorded);
    error Ledger_ChargeBeyondRight(uint256 row, address account, uint64 spent, uint64 authorized);
    error Ledger_ChargeBeyondBalance(uint256 row, address account, uint64 amount, uint64 balance);
    /// @notice The charge is flagged, and the list of consents is used up.
    error Ledger_ConsentMissing(uint256 row, address account);
    /// @notice The consent was signed by somebody else (0: no valid signature at all).
    error Ledger_ConsentForged(uint256 row, address account, uint64 spent, address signer);
    /// @notice The batch brings more consents than flagged charges.
    error Ledger_ConsentsLeft(uint256 used, uint256 given);
    /// @notice The payout says less than what was credited already.
    error Ledger_PayoutGoesBack(uint256 row, address account, uint64 given, uint64 recorded);
    /// @notice The payout takes more than the epoch's charges have brought in so far.
    error Ledger_PoolShort(uint256 row, address account, uint64 amount, uint64 pool);

    error Ledger_NothingRequested(address account);
    error Ledger_StillThawing(address account, uint64 payableAt);
    error Ledger_NothingToClaim(address account, uint64 unclaimed);

    /// @notice The cheque's signer (0: no valid signature) never was the coordinator, or no longer was in that epoch.
    error Ledger_ChequeForged(address account, uint64 epoch, address signer);
    /// @notice The epoch is neither closed nor overdue before `overdueAfter`.
    error Ledger_NotCashableYet(uint64 epoch, uint256 overdueAfter);
    error Ledger_NothingToCash(address account, uint64 earned, uint64 recorded);
    /// @notice The bond is used up; nothing can be paid.
    error Ledger_BondEmpty(address account, uint64 owed);
    error Ledger_SameCoordinator(address coordinator);
    /// @notice The bond is not to leave before `releasableAt` (0: the coordinator has not stepped down).
    error Ledger_BondLocked(uint64 releasableAt);

    // --------------------------------------------------------------------------------------------------------- Consumers

    /// @notice Takes units of the token from the caller and credits what arrived to its balance.
    /// @param authorized New cumulative right in nano-dollars; a smaller one than recorded (0, say) leaves the right as it is.
    /// Requirements:
    /// - The caller must have allowed the Ledger to take the units.
    /// - At least one unit must arrive.
    function deposit(uint256 units, uint64 authorized) external;

    /// @notice Takes units of the token from the caller and credits what arrived to the balance of another account, whose
    /// right stays as it is.
    /// Requirements: as for `deposit`; `account` must not be 0.
    function depositFor(address account, uint256 units) external;

    /// @notice As `deposit`, with the allowance given by a permit (ERC-2612). A permit that fails, because somebody sent it
    /// first, does not matter if the allowance suffices.
    function depositWithPermit(uint256 units, uint64 authorized, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external;

    /// @notice Raises how far the caller's `spent` may go, in cumulative nano-dollars. The same again changes nothing.
    /// Requirements: not less than is recorded.
    function authorize(uint64 authorized) external;

    /// @notice Lets a key sign consents for the caller. Keys are only added.
    /// Requirements: not the zero address.
    function addConsentKey(address key) external;

    /// @notice Asks for up to `amount` nano-dollars of the balance, payable after the thaw. A new request replaces the old
    /// one and restarts the clock; 0 takes it back; `type(uint64).max` asks for whatever will be there. Until it is paid,
    /// charges may still take thawing money.
    function requestWithdrawal(uint64 amount) external;

    /// @notice Pays the smaller of the caller's request and its balance, in units of the token, rounded down; the rest stays.
    /// When less than a unit stays, what was authorized and not spent is taken back.
    /// Requirements: there must be a request, and its thaw must be over.
    function withdraw() external;

    // ------------------------------------------------------------------------------------------------------- Coordinator

    /// @notice Applies one chunk of an epoch's rows. Charges (cumulative `spent`) move money from balances to the epoch's
    /// pool, then payouts (cumulative `earned`) move it from the pool to earnings. See `Rows` for the packed word.
    /// @param chunk Number of chunks of this epoch applied before.
    /// @param consents One for each charge flagged `WITH_CONSENT`, in the order of those charges.
    /// Requirements:
    /// - The caller must be the coordinator, the epoch over and not closed, and no other epoch settled in part. Epochs passed
    ///   over count as closed, with root 0.
    /// - Every charge within its account's balance and right, every payout within the pool; no row may go back.
    function settle(
        uint64 epoch,
        uint32 chunk,
        bytes32[] calldata charges,
        ConsentSignature[] calldata consents,
        bytes32[] calldata payouts
    ) external;

    /// @notice Applies the last chunk of an epoch (it may be empty) and closes the epoch.
    /// Requirements: as for `settle`;
    /// - The pool must be exactly 0 after the last payout.
    /// - The audit secret must be the one committed to, and the next one's hash must be given.
    function settleAndClose(
        uint64 epoch,
        uint32 chunk,
        bytes32[] calldata charges,
        ConsentSignature[] calldata consents,
        bytes32[] calldata payouts,
        Closing calldata closing
    ) external;

    // --------------------------------------------------------------------------------------------------------- Providers

    /// @notice Pays what an account earned and has not claimed to its payout address, in units of the token, rounded down;
    /// the rest stays. Anyone may call.
    /// Requirements: at least one unit must be unclaimed.
    function claim(address account) external;

    /// @notice Names the address to which the caller's earnings are paid.
    /// Requirements: not the zero address.
    function setPayoutAddress(address to) external;

    /// @notice Credits what a cheque, `Acknowledgement(account, epoch, earned)`, says beyond what was credited, from the
    /// bond, as far as the bond goes; the cheque stays good for the rest. Anyone may call.
    /// Requirements:
    /// - Signed (65 bytes) by the coordinator, or by a former one for an epoch no further ahead, when it retired, than
    ///   `bondRelease` reaches: a cheque names the epoch by which it is settled, not the one in which it is signed.
    /// - The epoch must be closed, or overdue.
    /// - The cheque must say more than was credited, and the bond must not be empty.
    function cash(address account, uint64 epoch, uint64 earned, bytes calldata signature) external;

    // -------------------------------------------------------------------------------------------------------------- Bond

    /// @notice Takes units of the token from the caller and adds what arrived to the bond. Anyone may call.
    /// Requirements: at least one unit must arrive.
    function depositBond(uint256 units) external;

    /// @notice Names the coordinator, or with 0 steps down, which starts the clock of the bond; a new coordinator stops it.
    /// Requirements: the caller must be the owner, and it must be a change.
    function setCoordinator(address next) external;

    /// @notice Replaces the commitment to the next audit secret, for a coordinator that does not have the old one.
    /// Requirements: the caller must be the owner; not 0.
    function commitAuditSecret(bytes32 hash) external;

    /// @notice Pays the bond out in units of the token, rounded down; the rest stays.
    /// Requirements: the caller must be the owner, and the coordinator must have stepped down `bondRelease` ago.
    function releaseBond(address to) external;

    // ------------------------------------------------------------------------------------------------------------- Views

    function accountOf(address account) external view returns (Account memory);
    /// @notice Returns how much of `earned` was claimed, in nano-dollars.
    function claimedOf(address account) external view returns (uint64);
    /// @notice Returns the standing request: nano-dollars, and the time from which `withdraw` pays (0, 0: none).
    function exitOf(address account) external view returns (uint64 amount, uint64 payableAt);
    /// @notice Returns where `claim` pays to: the account itself, unless it named another address.
    function payoutAddressOf(address account) external view returns (address);
    function isConsentKey(address account, address key) external view returns (bool);
    /// @notice Returns whether an epoch is closed, and its root: 0 if it is not, or was passed over.
    function epochOf(uint64 epoch) external view returns (bool closed, bytes32 receiptsRoot);
    /// @notice Returns the first epoch that is not closed.
    function nextEpoch() external view returns (uint64);
    /// @notice Returns how far `nextEpoch` is settled: chunks applied, and nano-dollars in its pool.
    function openEpoch() external view returns (uint64 epoch, uint32 chunks, uint64 pool);
    /// @notice Returns when an epoch ends, in seconds since 1970.
    function epochEnd(uint64 epoch) external view returns (uint256);
    /// @notice Returns the bond in nano-dollars.
    function bond() external view returns (uint64);
    /// @notice Returns from when on the bond may leave (0: the coordinator has not stepped down).
    function bondReleasableAt() external view returns (uint64);
    /// @notice Returns the coordinator, or 0 if it stepped down.
    function coordinator() external view returns (address);
    /// @notice Returns the first epoch whose cheques a key may not sign: 0 for a key that never was the coordinator, the
    /// largest number for the one that is.
    function signsBefore(address key) external view returns (uint64);
    function auditSecretHash() external view returns (bytes32);
    function token() external view returns (address);
    function thaw() external view returns (uint64);
    function genesis() external view returns (uint64);
    function epochLength() external view returns (uint64);
    function settlementLag() external view returns (uint64);
    function bondRelease() external view returns (uint64);
    // The name that ERC-2612 gave to it.
    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
