"""Every table of the coordinator. Amounts are nano-dollars in 64-bit integers; times are milliseconds.

Money moves only in `services/ledger.py`; the rest of the code reads these columns.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel


def _money() -> Column[int]:
    return Column(BigInteger, nullable=False, default=0, server_default="0")


def _bytes(*, primary: bool = False, nullable: bool = False, index: bool = False) -> Column[bytes]:
    return Column(LargeBinary, primary_key=primary, nullable=nullable and not primary, index=index)


def _partial(name: str, *columns: str, sqlite: str, postgresql: str = "", unique: bool = False) -> Index:
    """An index over the rows of a condition only: it costs nothing while a row is outside of it.

    A query uses it if it has the condition word for word, as SQLAlchemy writes it for each kind of database.
    """
    where = text(postgresql or sqlite)
    return Index(name, *columns, unique=unique, sqlite_where=text(sqlite), postgresql_where=where)


def _millis(*, nullable: bool = False, index: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable, index=index)


class Account(SQLModel, table=True):
    """Who pays and who earns.

    kind: `wallet` (own deposit, an address), `email` (credit), `treasury` (the coordinator's operator).
    What can be held is `balance − held − requested`; a wallet also needs
    `max(authorized, consented) + allowance − spent − held`.
    """

    id: str = Field(primary_key=True)
    kind: str
    address: str | None = Field(default=None, unique=True)
    email: str | None = Field(default=None, unique=True)
    email_verified: bool = False
    status: str = "active"
    created_at: int = Field(sa_column=_millis())
    balance: int = Field(default=0, sa_column=_money())
    """Deposited or granted, less captured, less withdrawn; for the treasury less its charge rows."""
    held: int = Field(default=0, sa_column=_money())
    requested: int = Field(default=0, sa_column=_money())
    requested_payable_at: int = Field(default=0, sa_column=_money())
    granted: int = Field(default=0, sa_column=_money())
    """Treasury only: credit promised to email accounts and not yet settled on the chain."""
    deposited: int = Field(default=0, sa_column=_money())
    """Cumulative deposits or grants, for statements."""
    withdrawn: int = Field(default=0, sa_column=_money())
    spent: int = Field(default=0, sa_column=_money())
    """Cumulative captures."""
    spent_matured: int = Field(default=0, sa_column=_money())
    """The part of `spent` whose receipts have matured: what rows carry."""
    spent_settled: int = Field(default=0, sa_column=_money())
    """The last cumulative charge row that the chain confirmed."""
    authorized: int = Field(default=0, sa_column=_money())
    consented: int = Field(default=0, sa_column=_money())
    consent_signature: bytes | None = Field(default=None, sa_column=_bytes(nullable=True))
    earned_pending: int = Field(default=0, sa_column=_money())
    """Earned and not yet matured."""
    earned: int = Field(default=0, sa_column=_money())
    """Cumulative, matured."""
    earned_settled: int = Field(default=0, sa_column=_money())
    acknowledged: int = Field(default=0, sa_column=_money())
    """The highest cheque that was signed."""
    acknowledged_epoch: int = Field(default=0, sa_column=_money())
    spent_since: int | None = Field(default=None, sa_column=_millis(nullable=True))
    """When the oldest spending that matured and is not settled did; a charge is due some time after."""
    earned_since: int | None = Field(default=None, sa_column=_millis(nullable=True))
    """The same of earnings, for a payout: the epoch on a cheque counts from it."""
    unsigned_since: int | None = Field(default=None, sa_column=_millis(nullable=True, index=True))
    """When a wallet first held money beyond what it authorized or signed for, since it last caught up."""


class ConsentKey(SQLModel, table=True):
    """A key that may sign consents for an account, as seen on the chain."""

    __tablename__ = "consent_key"

    account_id: str = Field(primary_key=True)
    address: str = Field(primary_key=True)


class ApiKey(SQLModel, table=True):
    """An API key; only its SHA-256 is kept. `cap` None means no cap."""

    __tablename__ = "api_key"

    id: str = Field(primary_key=True)
    account_id: str = Field(index=True)
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    prefix: str
    name: str = ""
    scope: str = "full"
    """`full` manages the account, `inference` only runs jobs and reads balances."""
    cap: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    spent: int = Field(default=0, sa_column=_money())
    held: int = Field(default=0, sa_column=_money())
    max_input_price: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    max_output_price: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    created_at: int = Field(sa_column=_millis())
    last_used_at: int | None = Field(default=None, sa_column=_millis(nullable=True))
    revoked_at: int | None = Field(default=None, sa_column=_millis(nullable=True))
    changed_at: int = Field(
        default=0, sa_column=Column(BigInteger, nullable=False, index=True, server_default="0")
    )
    """When something that is remembered outside the database (scope, prices, revocation) changed last."""


class JobRow(SQLModel, table=True):
    """A job and its hold. state: accepted, done, failed. The hold exists while it is accepted."""

    __tablename__ = "job"

    id: bytes = Field(sa_column=_bytes(primary=True))
    account_id: str
    key_id: str
    model_id: bytes = Field(sa_column=_bytes())
    model_name: str
    state: str
    hold: int = Field(sa_column=_money())
    charge: int = Field(default=0, sa_column=_money())
    input_price: int = Field(sa_column=_money())
    output_price: int = Field(sa_column=_money())
    fee_bps: int
    prompt_tokens: int
    output_tokens: int = 0
    finish: int | None = None
    error: str | None = None
    accepted_at: int = Field(sa_column=_millis())
    expires_at: int = Field(sa_column=_millis())
    finished_at: int | None = Field(default=None, sa_column=_millis(nullable=True))

    __table_args__ = (
        _partial("ix_job_running", "expires_at", sqlite="state = 'accepted'"),
        _partial("ix_job_running_account", "account_id", sqlite="state = 'accepted'"),
    )


class ReceiptRow(SQLModel, table=True):
    """A signed receipt that was taken. `payer_id` is who is charged: the consumer, or the treasury for parts
    of answers that failed."""

    __tablename__ = "receipt"

    id: bytes = Field(sa_column=_bytes(primary=True))
    job_id: bytes = Field(sa_column=_bytes())
    attempt: int
    account_id: str
    """The consumer whose job it was."""
    payer_id: str
    operator_id: str
    node: str
    charge: int = Field(sa_column=_money())
    fee: int = Field(sa_column=_money())
    body: bytes = Field(sa_column=_bytes())
    """msgpack of the SignedReceipt."""
    taken_at: int = Field(sa_column=_millis())
    taken_epoch: int = Field(sa_column=_money())
    """The epoch named in the signature Taken."""
    taken_signature: bytes = Field(sa_column=_bytes())
    matures_at: int = Field(sa_column=_millis())
    matured: bool = False
    batch: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    """The batch that was open when it matured, which an epoch takes as a whole. Its place there is the one
    that its id has among those of the epoch's receipts."""

    __table_args__ = (
        UniqueConstraint("job_id", "attempt"),
        _partial("ix_receipt_maturing", "matures_at", sqlite="matured IS 0", postgresql="matured IS false"),
        _partial("ix_receipt_batch", "batch", "id", sqlite="batch IS NOT NULL"),
        _partial("ix_receipt_treasury", "taken_at", sqlite="payer_id = 'treasury'"),
        Index("ix_receipt_account_taken", "account_id", "taken_at", "id"),
    )


class PrunedReceipt(SQLModel, table=True):
    """Which epoch's file has a settled receipt that was pruned."""

    __tablename__ = "pruned_receipt"

    id: bytes = Field(sa_column=_bytes(primary=True))
    epoch: int = Field(sa_column=_money())


class PrunedSum(SQLModel, table=True):
    """What pruned receipts and jobs added up to, so that the books can still be added up.

    kind: `spent` (by payer), `earned` (by operator), `fee` (the treasury's), `key` (by API key).
    """

    __tablename__ = "pruned_sum"

    kind: str = Field(primary_key=True)
    owner: str = Field(primary_key=True)
    amount: int = Field(default=0, sa_column=_money())


NAMED_GRANT = "kind = 'grant' AND reference <> ''"
GRANT = "kind = 'grant'"


class Entry(SQLModel, table=True):
    """The journal: append-only, one line per movement. `amount` is signed as the account sees it."""

    __tablename__ = "entry"

    id: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    )
    at: int = Field(sa_column=_millis())
    account_id: str = Field(index=True)
    kind: str
    """One of `domain.accounts.EntryKind`."""
    amount: int = Field(sa_column=_money())
    reference: str = ""

    __table_args__ = (
        _partial("ix_entry_grant_once", "reference", sqlite=NAMED_GRANT, unique=True),
        _partial("ix_entry_granted", "at", sqlite=GRANT),
    )


class EpochRow(SQLModel, table=True):
    """An epoch that is being settled or was. state: sealed, published, sending, closed."""

    __tablename__ = "epoch"

    number: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    state: str
    sealed_at: int = Field(sa_column=_millis())
    receipts_root: bytes = Field(sa_column=_bytes())
    receipt_count: int
    file_hash: bytes = Field(sa_column=_bytes())
    chunks: int
    audit_secret: bytes = Field(sa_column=_bytes())
    next_audit_secret: bytes = Field(sa_column=_bytes())
    closed_at: int | None = Field(default=None, sa_column=_millis(nullable=True))
    closed_transaction: bytes | None = Field(default=None, sa_column=_bytes(nullable=True))
    closed_block: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    gas_used: int = Field(default=0, sa_column=_money())
    last_batch: int = Field(sa_column=Column(BigInteger, nullable=False, unique=True, index=True))
    """Its receipts are those of the batches after the last epoch's up to this one."""
    credit: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    """What counts as settled when it is closed: its advance was planned on that. None: what is found then."""


class OpenBatch(SQLModel, table=True):
    """The one row with the batch that receipts mature into, later than all that epochs have."""

    __tablename__ = "open_batch"

    number: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))


class SettlementRow(SQLModel, table=True):
    """One account's line in an epoch. kind: charge, payout. `amount` is cumulative, `before` the chain's."""

    __tablename__ = "settlement_row"

    epoch: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    kind: str = Field(primary_key=True)
    address: str = Field(primary_key=True)
    account_id: str
    chunk: int = 0
    position: int = 0
    amount: int = Field(sa_column=_money())
    before: int = Field(sa_column=_money())
    consent_spent: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    consent_signature: bytes | None = Field(default=None, sa_column=_bytes(nullable=True))
    set_aside: str | None = None
    """Why the row was left out, if it was."""


WHOLE_BLOCK = 2**31 - 1
"""After every event of a block."""


class ChainCursor(SQLModel, table=True):
    """How far the chain was read, and the hash of that block, to notice a reorganisation.

    Of that block the events up to `log_index` are in the books; WHOLE_BLOCK stands for all.
    """

    __tablename__ = "chain_cursor"

    name: str = Field(primary_key=True)
    block_number: int = Field(sa_column=Column(BigInteger, nullable=False))
    block_hash: bytes = Field(sa_column=_bytes())
    log_index: int = Field(
        default=WHOLE_BLOCK, sa_column=Column(Integer, nullable=False, server_default=str(WHOLE_BLOCK))
    )

    @property
    def position(self) -> tuple[int, int]:
        """Block and log index, to be compared with those of events."""
        return self.block_number, self.log_index


class ChainEventRow(SQLModel, table=True):
    """An event of the chain that was applied to the books, once per (transaction, log index)."""

    __tablename__ = "chain_event"

    transaction: bytes = Field(sa_column=_bytes(primary=True))
    log_index: int = Field(primary_key=True)
    block_number: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    block_hash: bytes = Field(sa_column=_bytes())
    kind: str
    account_id: str = ""
    amount: int = Field(default=0, sa_column=_money())


class TransactionRow(SQLModel, table=True):
    """A transaction of ours, stored before it is broadcast. state: signed, mined, failed, replaced."""

    __tablename__ = "transaction_out"

    purpose: str = Field(primary_key=True)
    """What it does, uniquely: `settle/12/0`. A purpose is sent once; a resend has the same nonce."""
    sender: str
    nonce: int = Field(sa_column=Column(BigInteger, nullable=False))
    raw: bytes = Field(sa_column=_bytes())
    hash: bytes = Field(sa_column=_bytes())
    state: str
    created_at: int = Field(sa_column=_millis())
    block_number: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    gas_used: int = Field(default=0, sa_column=_money())


class Lease(SQLModel, table=True):
    """Who may run the scheduled work, until when."""

    name: str = Field(primary_key=True)
    holder: str
    until: int = Field(sa_column=_millis())


class ModelRow(SQLModel, table=True):
    """A model of the catalog."""

    __tablename__ = "model"

    id: bytes = Field(sa_column=_bytes(primary=True))
    name: str = Field(unique=True)
    manifest: bytes = Field(sa_column=_bytes())
    admitted_at: int = Field(sa_column=_millis())


class NodeRow(SQLModel, table=True):
    """What is remembered of a node between connections."""

    __tablename__ = "node"

    address: str = Field(primary_key=True)
    operator: str = Field(index=True)
    first_seen: int = Field(sa_column=_millis())
    last_seen: int = Field(sa_column=_millis())
    region: str = ""
    hardware: str = ""
    software: str = ""
    jobs_done: int = Field(default=0, sa_column=_money())
    jobs_failed: int = Field(default=0, sa_column=_money())
    suspended: bool = False


class SignInNonce(SQLModel, table=True):
    """A nonce for Sign-In with Ethereum; used once."""

    __tablename__ = "sign_in_nonce"

    nonce: str = Field(primary_key=True)
    expires_at: int = Field(sa_column=_millis())


class Session(SQLModel, table=True):
    """A signed-in person; only the SHA-256 of the token is kept."""

    hash: bytes = Field(sa_column=_bytes(primary=True))
    account_id: str
    expires_at: int = Field(sa_column=_millis())


class EmailToken(SQLModel, table=True):
    """A mailed link; only the SHA-256 of its token is kept. purpose: verify, sign_in."""

    __tablename__ = "email_token"

    hash: bytes = Field(sa_column=_bytes(primary=True))
    account_id: str
    purpose: str
    expires_at: int = Field(sa_column=_millis())


class RepeatKey(SQLModel, table=True):
    """An `Idempotency-Key` that was used; nothing of the request or its answer can be read from this."""

    __tablename__ = "repeat_key"

    id: bytes = Field(sa_column=_bytes(primary=True))
    """A hash over account, route and key."""
    fingerprint: bytes = Field(sa_column=_bytes())
    """A hash over the key and the body."""
    made: str | None = None
    """What the request made: `job/…` or `key/…`; None while that is not known."""
    expires_at: int = Field(sa_column=_millis(index=True))
