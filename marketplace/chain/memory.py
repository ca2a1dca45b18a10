"""The twin: a chain in memory with the Ledger's rules, blocks, reorganisations and a mempool.

It mines a transaction when it is broadcast, unless `holds_back` is set; users act through the methods
below the port's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from marketplace.chain.memory_ledger import MemoryLedger
from marketplace.chain.rows import fault_of, malformed_consent
from marketplace.domain.ports.chain import (
    Authorized,
    Batch,
    BatchRefused,
    Cashed,
    ChainAccount,
    ChainBlock,
    ChainEvent,
    ConsentKeyAdded,
    Deposited,
    Exit,
    Fault,
    LedgerState,
    Outcome,
    Place,
    Signed,
    StakeChanged,
    WithdrawalRequested,
    Withdrawn,
)
from marketplace.domain.ports.stake import NodeStake
from tallystick.evm import Reverted
from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import ZERO_ADDRESS, Address
from tallystick.protocol.money import NanoUsd

UNKNOWN_NODE = NodeStake(ZERO_ADDRESS, False, NanoUsd(0), False)


@dataclass
class _Mined:
    """A block, the state after it, which nobody changes any more, and how many nonces were used by then."""

    block: ChainBlock
    ledger: MemoryLedger
    events: list[ChainEvent]
    outcomes: dict[bytes, Outcome]
    nonces: int


class MemoryChain:
    """Implements `Chain`, `Sender` (for the coordinator's key) and `StakeBook`."""

    def __init__(self, ledger: MemoryLedger, *, start: int) -> None:
        self._state = ledger
        self._salt = count()
        self._now = start
        self._signed: dict[bytes, tuple[Signed, Batch | None]] = {}
        self._waiting: dict[int, bytes] = {}
        self._blocks: list[_Mined] = []
        self.stakes: dict[Address, NodeStake] = {}
        self.holds_back = False
        self._seal([], {})

    # ------------------------------------------------------------------------------------------------- Chain

    async def head(self) -> ChainBlock:
        """See `Chain`."""
        return self._blocks[-1].block

    async def block(self, number: int) -> ChainBlock | None:
        """See `Chain`."""
        return self._blocks[number].block if 0 <= number < len(self._blocks) else None

    async def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        """See `Chain`."""
        return [event for mined in self._blocks[first : last + 1] for event in mined.events]

    async def accounts(self, addresses: Sequence[Address]) -> Mapping[Address, ChainAccount]:
        """See `Chain`."""
        return {address: self._state.account(address) for address in addresses}

    async def exit_of(self, address: Address) -> Exit:
        """See `Chain`."""
        return self._state.exits.get(address, Exit(NanoUsd(0), 0))

    async def ledger(self) -> LedgerState:
        """See `Chain`."""
        state = self._state
        return LedgerState(
            state.next_epoch,
            state.chunks,
            NanoUsd(state.pool),
            NanoUsd(state.bond),
            state.coordinator,
            state.audit_secret_hash,
        )

    async def simulate(self, batch: Batch) -> Fault | None:
        """See `Chain`."""
        if (malformed := malformed_consent(batch)) is not None:
            return malformed
        try:
            self._state.copy().settle(batch, self.address, self._now)
        except Reverted as refusal:
            return fault_of(refusal)
        return None

    # ------------------------------------------------------------------------------------------------ Sender

    @property
    def address(self) -> Address:
        """The coordinator's address."""
        return self._state.coordinator

    async def next_nonce(self) -> int:
        """See `Sender`."""
        nonce = await self.used_nonces()
        while nonce in self._waiting:
            nonce += 1
        return nonce

    async def used_nonces(self) -> int:
        """See `Sender`."""
        return self._blocks[-1].nonces

    async def sign(self, batch: Batch, nonce: int, *, urgency: int = 0) -> Signed:
        """See `Sender`."""
        if (fault := await self.simulate(batch)) is not None:
            raise BatchRefused(fault)
        raw = keccak256(repr((batch, nonce, urgency)).encode())
        self._signed[raw] = (Signed(raw, keccak256(raw), nonce), batch)
        return self._signed[raw][0]

    async def broadcast(self, raw: bytes) -> None:
        """See `Sender`."""
        signed, _ = self._signed[raw]
        if signed.nonce >= await self.used_nonces():
            self._waiting[signed.nonce] = raw
        if not self.holds_back:
            self.mine()

    async def skip(self, nonce: int) -> None:
        """See `Sender`."""
        raw = keccak256(f"skip {nonce}".encode())
        self._signed[raw] = (Signed(raw, keccak256(raw), nonce), None)
        await self.broadcast(raw)

    async def outcome(self, transaction: bytes) -> Outcome | None:
        """See `Sender`."""
        found = (mined.outcomes.get(transaction) for mined in self._blocks)
        return next((outcome for outcome in found if outcome is not None), None)

    # --------------------------------------------------------------------------------------------- StakeBook

    async def node_stake(self, node: Address) -> NodeStake:
        """See `StakeBook`."""
        return self.stakes.get(node, UNKNOWN_NODE)

    def forget(self) -> None:
        """Nothing is kept."""

    # ------------------------------------------------------------------------------------------------- Users

    def set_stake(self, node: Address, stake: NodeStake) -> None:
        """Say what stands behind a node."""
        self.stakes[node] = stake
        self._seal([StakeChanged(self._place())], {})

    def deposit(self, account: Address, amount: int, authorized: int = 0) -> None:
        """Deposit for `account`, who authorizes as much as that."""
        self._state.deposit(account, amount, authorized)
        events: list[ChainEvent] = [Deposited(self._place(), account, NanoUsd(amount))]
        if authorized:
            now = self._state.account(account).authorized
            events.append(Authorized(self._place(1), account, now))
        self._seal(events, {})

    def authorize(self, account: Address, authorized: int) -> None:
        """Raise the account's right. Raises Reverted."""
        self._state.authorize(account, authorized)
        self._seal([Authorized(self._place(), account, NanoUsd(authorized))], {})

    def add_consent_key(self, account: Address, key: Address) -> None:
        """Let `key` sign consents for the account."""
        self._state.consent_keys.add((account, key))
        self._seal([ConsentKeyAdded(self._place(), account, key)], {})

    def request_withdrawal(self, account: Address, amount: int) -> None:
        """Ask for a withdrawal; 0 takes the request back."""
        payable_at = self._now + self._state.thaw if amount else 0
        if amount:
            self._state.exits[account] = Exit(NanoUsd(amount), payable_at)
        else:
            self._state.exits.pop(account, None)
        self._seal([WithdrawalRequested(self._place(), account, NanoUsd(amount), payable_at)], {})

    def withdraw(self, account: Address) -> None:
        """Take what was asked for and thawed. Raises Reverted."""
        before = self._state.account(account)
        amount = self._state.withdraw(account, self._now)
        events: list[ChainEvent] = [Withdrawn(self._place(), account, NanoUsd(amount))]
        after = self._state.account(account)
        if after.authorized != before.authorized:
            events.append(Authorized(self._place(1), account, after.authorized))
        self._seal(events, {})

    def cash(self, account: Address, earned: int) -> None:
        """Cash a cheque. Raises Reverted."""
        paid = self._state.cash(account, earned)
        credited = self._state.account(account).earned
        self._seal([Cashed(self._place(), account, NanoUsd(paid), credited)], {})

    def deposit_bond(self, amount: int) -> None:
        """Add to the bond."""
        self._state.bond += amount
        self._seal([], {})

    # ------------------------------------------------------------------------------------------------ Levers

    def mine(self, blocks: int = 1) -> None:
        """Make blocks; the first takes the transactions that wait."""
        outcomes: dict[bytes, Outcome] = {}
        nonce = self._blocks[-1].nonces
        while (raw := self._waiting.pop(nonce, None)) is not None:
            signed, batch = self._signed[raw]
            outcomes[signed.hash] = self._mined(batch)
            nonce += 1
        self._seal([], outcomes)
        self._seal_empty(blocks - 1)

    def _mined(self, batch: Batch | None) -> Outcome:
        number = len(self._blocks)
        if batch is None:
            return Outcome(number, 21_000, True)
        try:
            self._state.settle(batch, self.address, self._now)
        except Reverted:
            return Outcome(number, 30_000, False)
        return Outcome(number, 40_000 + 7_000 * (len(batch.charges) + len(batch.payouts)), True)

    def wait(self, seconds: int) -> None:
        """Move the chain's clock forward and make a block."""
        self._now += seconds
        self.mine()

    def reorganise(self, depth: int) -> None:
        """Replace the last `depth` blocks by empty ones; what was in them is lost."""
        del self._blocks[-depth:]
        self._state = self._blocks[-1].ledger.copy()
        self._seal_empty(depth)

    def _place(self, index: int = 0) -> Place:
        number = len(self._blocks)
        transaction = keccak256(f"transaction {number} {next(self._salt)}".encode())
        return Place(transaction, index, number, bytes(32))

    def _seal(self, events: list[ChainEvent], outcomes: dict[bytes, Outcome]) -> None:
        block = self._next_block()
        placed = [replace(event, place=replace(event.place, block_hash=block.hash)) for event in events]
        nonces = len(outcomes) + (self._blocks[-1].nonces if self._blocks else 0)
        self._blocks.append(_Mined(block, self._state.copy(), placed, outcomes, nonces))

    def _seal_empty(self, blocks: int) -> None:
        for _ in range(blocks):
            last = self._blocks[-1]
            self._blocks.append(_Mined(self._next_block(), last.ledger, [], {}, last.nonces))

    def _next_block(self) -> ChainBlock:
        number = len(self._blocks)
        return ChainBlock(number, keccak256(f"block {number} {next(self._salt)}".encode()), self._now)
