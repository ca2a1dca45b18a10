"""What the coordinator sends to the chain: one key, one transaction at a time, stored before it is broadcast.

    (none) ──▶ signed ──▶ mined
                 │  ▲ └─▶ failed     mined, and the contract refused it: made anew, with the next nonce
                 ▼  │ └─▶ replaced   another transaction took its nonce: made anew, if it is still wanted
              bids more (same nonce, same content)

A transaction for a purpose keeps its content until its fate is final, so that what the books say was sent
is what the chain can have got. A process that dies at any point finds the stored transaction and
broadcasts the same bytes again. Two processes that do the same at once (a lease that ran out) store one
transaction: whoever finds another in the books than it has read sends nothing, and looks again.
"""

from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy.orm import Session

from marketplace.domain.ports.chain import Batch, BatchRefused, Chain, Outcome, Sender, Signed
from marketplace.domain.ports.clock import Clock
from marketplace.services.alarms import alarm
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import transactions as queries
from marketplace.storage.tables import TransactionRow

log = structlog.get_logger(__name__)

MOST_URGENT: Final = 8
"""Bids grow by an eighth each; after eight of them somebody should look."""

MOST_BEFORE: Final = 50
"""Transactions that are broadcast in a step before one that waits for their nonces."""

Condition = Callable[[Session], bool]
"""What must hold in the write that stores a transaction."""


def _always(_session: Session) -> bool:
    return True


class Transactions:
    """The coordinator's outgoing transactions. One runs at a time, under the lease."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        sender: Sender,
        clock: Clock,
        *,
        confirmations: int,
        stuck_after_ms: int = 60_000,
    ) -> None:
        self._database = database
        self._chain = chain
        self._sender = sender
        self._clock = clock
        self._confirmations = confirmations
        self._stuck_after_ms = stuck_after_ms
        self._bids: dict[str, int] = {}
        self._given_up: dict[bytes, int] = {}
        """At which block transactions were first seen to have no chance any more."""

    async def push(self, purpose: str, batch: Batch, while_: Condition = _always) -> Outcome | None:
        """Bring the transaction for `purpose` one step further; return its outcome once it has succeeded.

        `batch` is what it sends if it has to be made, and `while_` says whether the books still want that;
        otherwise nothing is sent. Raises BatchRefused if the Ledger would refuse it,
        or refused it; the transaction is made anew then at the next call, with what that call brings.
        Raises ChainUnavailable.
        """
        row = await self._database.read(lambda session: queries.find(session, purpose))
        if row is None or row.state in ("failed", "replaced"):
            await self._make(row, purpose, batch, while_)
            return None
        outcome = await self._sender.outcome(row.hash)
        if row.sender != self._sender.address:
            if outcome is None:
                await self._inherit(row)
                return None
        # A node may keep the receipt of a transaction whose block was taken back: its nonce is free again.
        elif outcome is None or await self._sender.used_nonces() <= row.nonce:
            await self._insist(row, batch, while_)
            return None
        if outcome.succeeded:
            await self._mark(row, "mined", outcome)
            return outcome
        await self._failed(row, batch, outcome)
        return None

    async def is_pending(self, purpose: str) -> bool:
        """Return whether a transaction for `purpose` may still be mined as it was signed."""
        row = await self._database.read(lambda session: queries.find(session, purpose))
        return row is not None and row.state == "signed"

    async def outcome(self, purpose: str) -> tuple[bytes, Outcome] | None:
        """Return the hash and outcome of the transaction made last for `purpose`, if it was mined."""
        row = await self._database.read(lambda session: queries.find(session, purpose))
        if row is None:
            return None
        outcome = await self._sender.outcome(row.hash)
        return None if outcome is None else (row.hash, outcome)

    async def broadcast_again(self, prefix: str) -> int:
        """Broadcast what was made for purposes with this prefix anew; return how many there were."""
        rows = await self._database.read(lambda session: queries.with_prefix(session, prefix))
        used = await self._sender.used_nonces()
        ours = [row for row in rows if row.sender == self._sender.address]
        if ours and used < ours[0].nonce:
            await self._broadcast_before(ours[0], used)
        for row in rows:
            await self._sender.broadcast(row.raw)
            reach("transactions.broadcast_again")
        return len(rows)

    async def _make(
        self, before: TransactionRow | None, purpose: str, batch: Batch, while_: Condition
    ) -> None:
        address = self._sender.address
        stored = await self._database.read(lambda session: queries.next_nonce(session, address))
        nonce = max(stored, await self._sender.next_nonce())
        signed = await self._sender.sign(batch, nonce)
        if not await self._store(before, purpose, signed, self._clock.now_ms(), while_):
            return
        reach("transactions.stored")
        await self._sender.broadcast(signed.raw)
        reach("transactions.broadcast")

    async def _insist(self, row: TransactionRow, batch: Batch, while_: Condition) -> None:
        """Broadcast again, bid more after a while, or find that another transaction took the nonce."""
        used = await self._sender.used_nonces()
        if used > row.nonce:
            if await self._sender.outcome(row.hash) is None:
                await self._give_up(row)
            return
        self._given_up.pop(row.hash, None)
        if used < row.nonce:
            await self._broadcast_before(row, used)
        await self._sender.broadcast(row.raw)
        reach("transactions.broadcast_again")
        age = self._clock.now_ms() - row.created_at
        urgency = min(age // self._stuck_after_ms, MOST_URGENT)
        if urgency > self._bids.get(row.purpose, 0):
            self._bids[row.purpose] = urgency
            await self._bid_more(row, batch, urgency, while_)

    async def _inherit(self, row: TransactionRow) -> None:
        """Wait for a transaction of the key that settled before this one, until it has no chance any more.

        The Ledger takes nothing of a former coordinator's; until it knows this one, it may.
        """
        if (await self._chain.ledger()).coordinator == self._sender.address:
            await self._give_up(row)

    async def _give_up(self, row: TransactionRow) -> None:
        """Mark a transaction as replaced once what took its chance is final.

        Were it given up at once, a reorganisation could give its nonce back, and nobody would ever use it:
        later transactions would wait for good.
        """
        head = await self._chain.head()
        since = self._given_up.setdefault(row.hash, head.number)
        if head.number - since < self._confirmations:
            return
        log.warning("transaction_replaced", purpose=row.purpose, nonce=row.nonce)
        await self._mark(row, "replaced", None)
        del self._given_up[row.hash]

    async def _broadcast_before(self, row: TransactionRow, used: int) -> None:
        """Broadcast what has lower nonces and may have been taken back: it has to be mined first.

        It may be for a chunk that an epoch has no more, so that nobody else would; also if it was mined once.
        Of what had failed or been replaced for good, nothing is kept: a chain that loses even that gets empty
        transactions in its place.
        """
        between = await self._database.read(
            lambda session: queries.between(session, row.sender, used, row.nonce)
        )
        kept = {one.nonce: one.raw for one in between}
        for nonce in range(used, min(row.nonce, used + MOST_BEFORE)):
            if nonce in kept:
                await self._sender.broadcast(kept[nonce])
            else:
                log.warning("nonce_skipped", purpose=row.purpose, nonce=nonce)
                await self._sender.skip(nonce)
            reach("transactions.broadcast_again")

    async def _bid_more(self, row: TransactionRow, batch: Batch, urgency: int, while_: Condition) -> None:
        try:
            signed = await self._sender.sign(batch, row.nonce, urgency=urgency)
        except BatchRefused:
            # Its own effect is not to be seen before it is mined, so something else moved: wait for its fate.
            return
        if signed.hash == row.hash:
            return
        log.warning("transaction_stuck", purpose=row.purpose, nonce=row.nonce, urgency=urgency)
        if not await self._store(row, row.purpose, signed, row.created_at, while_):
            return
        reach("transactions.stored_again")
        await self._sender.broadcast(signed.raw)
        reach("transactions.bid_more")

    async def _failed(self, row: TransactionRow, batch: Batch, outcome: Outcome) -> None:
        """Make nothing of a failure until it is final: another branch of the chain may still take it."""
        head = await self._chain.head()
        if head.number - outcome.block_number < self._confirmations:
            return
        await self._mark(row, "failed", outcome)
        alarm("transaction_failed", purpose=row.purpose, nonce=row.nonce, block=outcome.block_number)
        fault = await self._chain.simulate(batch)
        if fault is not None:
            raise BatchRefused(fault)

    async def _store(
        self,
        before: TransactionRow | None,
        purpose: str,
        signed: Signed,
        created_at: int,
        while_: Condition,
    ) -> bool:
        """Store what was signed in place of `before`; return whether that was still so, and still wanted."""
        row = TransactionRow(
            purpose=purpose,
            sender=self._sender.address,
            nonce=signed.nonce,
            raw=signed.raw,
            hash=signed.hash,
            state="signed",
            created_at=created_at,
            gas_used=0,
        )
        return await self._database.write(
            lambda session: while_(session) and queries.put(session, row, before)
        )

    async def _mark(self, row: TransactionRow, state: str, outcome: Outcome | None) -> None:
        if row.state == state:
            return
        values: dict[str, object] = {"state": state}
        if outcome is not None:
            values |= {"block_number": outcome.block_number, "gas_used": outcome.gas_used}
        await self._database.write(lambda session: queries.change(session, row.purpose, row.hash, **values))
        reach("transactions.marked")
