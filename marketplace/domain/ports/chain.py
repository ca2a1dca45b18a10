"""The chain as the services see it. Implementations live in `marketplace/chain`: web3, and a twin in memory.

Amounts are nano-dollars, block times seconds since 1970. Every method raises ChainUnavailable if the
chain's node does not answer; a contract's refusal is an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class ChainBlock:
    """A block's height, hash and time (seconds)."""

    number: int
    hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event stands: its transaction, its index in the block, and the block."""

    transaction: bytes
    log_index: int
    block_number: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Deposited:
    """`amount` arrived in the account's balance."""

    place: Place
    account: Address
    amount: NanoUsd


@dataclass(frozen=True, slots=True)
class Authorized:
    """The account may be charged up to `authorized` ever; lower than before only when it left."""

    place: Place
    account: Address
    authorized: NanoUsd


@dataclass(frozen=True, slots=True)
class ConsentKeyAdded:
    """`key` may sign consents for the account."""

    place: Place
    account: Address
    key: Address


@dataclass(frozen=True, slots=True)
class WithdrawalRequested:
    """The account asked for up to `amount` (0: no more), payable from `payable_at` (seconds)."""

    place: Place
    account: Address
    amount: NanoUsd
    payable_at: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """`amount` left the account's balance."""

    place: Place
    account: Address
    amount: NanoUsd


@dataclass(frozen=True, slots=True)
class Cashed:
    """A cheque raised what the account was credited on the chain by `paid`, to `credited` ever."""

    place: Place
    account: Address
    paid: NanoUsd
    credited: NanoUsd


@dataclass(frozen=True, slots=True)
class StakeChanged:
    """Something in the Stake contract moved: what is known of stakes is out of date."""

    place: Place


ChainEvent = (
    Deposited | Authorized | ConsentKeyAdded | WithdrawalRequested | Withdrawn | Cashed | StakeChanged
)


@dataclass(frozen=True, slots=True)
class ChainAccount:
    """What the Ledger has of an account; all but `balance` are cumulative."""

    balance: NanoUsd
    spent: NanoUsd
    authorized: NanoUsd
    earned: NanoUsd


@dataclass(frozen=True, slots=True)
class Exit:
    """A standing request for a withdrawal; amount 0 means none. `payable_at` is in seconds."""

    amount: NanoUsd
    payable_at: int


@dataclass(frozen=True, slots=True)
class LedgerState:
    """How far the Ledger is: its first epoch not closed, that epoch's chunks and pool, and the bond."""

    next_epoch: int
    chunks: int
    pool: NanoUsd
    bond: NanoUsd
    coordinator: Address
    audit_secret_hash: bytes


@dataclass(frozen=True, slots=True)
class Consent:
    """`Consent(account, spent)` with its 65-byte signature."""

    spent: NanoUsd
    signature: bytes


@dataclass(frozen=True, slots=True)
class Charge:
    """A consumer's row: what it has spent ever, and the consent that it needs, if it does."""

    account: Address
    spent: NanoUsd
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class Payout:
    """An earner's row: what it has earned ever."""

    account: Address
    earned: NanoUsd


@dataclass(frozen=True, slots=True)
class Closing:
    """What is published when an epoch closes; hashes and secrets are 32 bytes."""

    receipts_root: bytes
    receipt_count: int
    file_hash: bytes
    audit_secret: bytes
    next_audit_secret_hash: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction of a settlement; the last of its epoch brings the closing."""

    epoch: int
    chunk: int
    charges: tuple[Charge, ...]
    payouts: tuple[Payout, ...]
    closing: Closing | None = None


class FaultKind(StrEnum):
    """What a refused batch is refused for."""

    CHARGE = "charge"
    PAYOUT = "payout"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the Ledger would refuse a batch; `row` counts within its charges or payouts."""

    kind: FaultKind
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction that was not necessarily sent."""

    raw: bytes
    hash: bytes
    nonce: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a transaction was mined, what gas it took, and whether it did what it should."""

    block_number: int
    gas_used: int
    succeeded: bool


class Chain(Protocol):
    """Reads."""

    async def head(self) -> ChainBlock:
        """Return the latest block."""

    async def block(self, number: int) -> ChainBlock | None:
        """Return the block at a height, or None if there is none (yet, or any more)."""

    async def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        """Return what happened in the blocks `first` … `last`, in order."""

    async def accounts(self, addresses: Sequence[Address]) -> Mapping[Address, ChainAccount]:
        """Return the accounts as of the latest block; one that was never used is all zeros."""

    async def exit_of(self, address: Address) -> Exit:
        """Return the account's standing request as of the latest block."""

    async def ledger(self) -> LedgerState:
        """Return how far the Ledger is as of the latest block."""

    async def simulate(self, batch: Batch) -> Fault | None:
        """Return why the Ledger would refuse `batch` now, or None if it would not."""


class Sender(Protocol):
    """The coordinator's key on the chain: one sender per key, used by one task at a time."""

    @property
    def address(self) -> Address:
        """The key's address."""

    async def next_nonce(self) -> int:
        """Return how many transactions of this key are in blocks or known to wait for one."""

    async def used_nonces(self) -> int:
        """Return how many transactions of this key are in blocks."""

    async def sign(self, batch: Batch, nonce: int, *, urgency: int = 0) -> Signed:
        """Return the transaction that sends `batch`; each step of `urgency` bids more for its gas.

        Raises BatchRefused if the Ledger would refuse it.
        """

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the chain; one that it has or had already is no error."""

    async def skip(self, nonce: int) -> None:
        """Use a nonce for nothing, so that those after it need not wait for it."""

    async def outcome(self, transaction: bytes) -> Outcome | None:
        """Return what became of a transaction, or None if it is in no block."""


class BatchRefused(Exception):
    """The Ledger would refuse the batch; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault
