"""Reading the chain into the books, along two cursors.

    head ─────────────────────────────▶ withdrawals: asked-for money counts as gone the moment it is seen
    head − confirmations ─────────────▶ deposits and rights: money counts as there once it will stay

Each event is booked once, in the same commit as its cursor, and a few at a time, so that the holds of the
present do not wait: a cursor may stand in the middle of a block. It remembers its block's hash: if the chain
has another block there now, what the vanished blocks brought is taken back and the blocks are read again.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog
from sqlalchemy.orm import Session

from marketplace.domain.ports.chain import (
    Authorized,
    Chain,
    ChainBlock,
    ChainEvent,
    Exit,
    StakeChanged,
    WithdrawalRequested,
    Withdrawn,
)
from marketplace.domain.ports.clock import Clock
from marketplace.services import ledger
from marketplace.services.chain_books import CANCELLED, MOST, apply_confirmed, apply_fresh, undo
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import chain as queries
from marketplace.storage.tables import WHOLE_BLOCK, ChainCursor, ChainEventRow
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd

log = structlog.get_logger(__name__)

FRESH: Final = "fresh"
CONFIRMED: Final = "confirmed"
DEEPEST_REORGANISATION: Final = 256
"""Blocks that are read again when the chain has changed behind a cursor."""
BLOCKS_A_STEP: Final = 2_000
EVENTS_A_WRITE: Final = 100

Position = tuple[int, int]
"""A block, and a log index in it."""


class ChainWatcher:
    """Keeps the books up to date with the chain. One runs at a time: `poll` is called under the lease."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        clock: Clock,
        *,
        confirmations: int,
        first_block: int,
        stakes_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._chain = chain
        self._clock = clock
        self._confirmations = confirmations
        self._first_block = first_block
        self._stakes_changed = stakes_changed

    async def poll(self) -> ChainBlock:
        """Book what is new, and return the chain's head. Raises ChainUnavailable; nothing is lost by it."""
        head = await self._chain.head()
        if await self._advance(FRESH, head.number):
            await self._check_requests(head)
        await self._advance(CONFIRMED, head.number - self._confirmations)
        return head

    async def _advance(self, name: str, target: int) -> bool:
        """Read up to block `target`; return whether that was reached."""
        cursor = await self._database.read(lambda session: queries.cursor(session, name))
        if cursor is not None and not await self._still_there(cursor):
            await self._rewind(cursor)
            cursor = await self._database.read(lambda session: queries.cursor(session, name))
        at = (self._first_block - 1, WHOLE_BLOCK) if cursor is None else cursor.position
        while at < (target, WHOLE_BLOCK):
            end = min(target, at[0] + BLOCKS_A_STEP)
            if not await self._read(name, at, end):
                return False
            at = (end, WHOLE_BLOCK)
        return True

    async def _read(self, name: str, after: Position, last: int) -> bool:
        """Book the events after a position, to the end of block `last`, some at a time.

        Returns False if the chain changed while they were read.
        """
        end = await self._chain.block(last)
        if end is None:
            return False
        block, log_index = after
        first = block + 1 if log_index == WHOLE_BLOCK else block
        events = [event for event in await self._chain.events(first, last) if position_of(event) > after]
        whole = (end.number, end.hash, WHOLE_BLOCK)
        while len(events) > EVENTS_A_WRITE:
            some, events = events[:EVENTS_A_WRITE], events[EVENTS_A_WRITE:]
            place = some[-1].place
            if not await self._book(name, some, (place.block_number, place.block_hash, place.log_index), end):
                return False
        return await self._book(name, events, whole, end)

    async def _book(
        self, name: str, events: Sequence[ChainEvent], to: tuple[int, bytes, int], end: ChainBlock
    ) -> bool:
        """Book events and move the cursor, unless `end` is not on the chain any more; return whether."""
        rights = sorted({event.account for event in events if isinstance(event, Authorized)})
        latest = await self._chain.accounts(rights)
        if await self._chain.block(end.number) != end:
            return False
        now = self._clock.now_ms()

        def work(session: Session) -> None:
            if name == FRESH:
                apply_fresh(session, events, latest, now)
            else:
                apply_confirmed(session, events, latest, now)
            queries.move_cursor(session, name, *to)

        reach("deposits.before_fresh" if name == FRESH else "deposits.before_confirmed")
        await self._database.write(work)
        reach("deposits.after_fresh" if name == FRESH else "deposits.after_confirmed")
        self._tell(name, events)
        return True

    def _tell(self, name: str, events: Sequence[ChainEvent]) -> None:
        if name == FRESH and any(isinstance(event, StakeChanged) for event in events):
            self._stakes_changed()

    async def _check_requests(self, head: ChainBlock) -> None:
        """Correct requests that the chain does not have (any more), as after a reorganisation."""
        leaving = await self._database.read(queries.leaving)
        if not leaving:
            return
        exits = {address: await self._chain.exit_of(Address(address)) for address in leaving}
        moved = await self._moved_since(head)
        if moved is None:
            return
        exits = {address: found for address, found in exits.items() if address not in moved}
        now = self._clock.now_ms()
        await self._database.write(lambda session: _correct(session, exits, now))
        reach("deposits.requests_corrected")

    async def _moved_since(self, head: ChainBlock) -> set[str] | None:
        """Return whose exits changed after `head`, which are to be read first; None if it is gone itself."""
        latest = await self._chain.head()
        if latest == head:
            return set()
        if await self._chain.block(head.number) != head:
            return None
        newer = await self._chain.events(head.number + 1, latest.number)
        return {event.account for event in newer if isinstance(event, WithdrawalRequested | Withdrawn)}

    async def _still_there(self, cursor: ChainCursor) -> bool:
        if cursor.block_number < self._first_block:
            return True
        block = await self._chain.block(cursor.block_number)
        return block is not None and block.hash == cursor.block_hash

    async def _rewind(self, cursor: ChainCursor) -> None:
        """Take back what vanished blocks brought, and move the cursor to before any reorganisation."""
        start = max(self._first_block, cursor.block_number - DEEPEST_REORGANISATION)
        rows = await self._database.read(lambda session: queries.events_since(session, start))
        gone = [row for row in rows if not await self._has(row)]
        latest = await self._chain.accounts(sorted({Address(row.account_id) for row in gone}))
        # A cancellation that vanished leaves a request of before, which may be too old to be read again.
        exits = {who: await self._chain.exit_of(Address(who)) for who in _cancelled(gone)}
        restart = await self._chain.block(start - 1) if start else None
        now = self._clock.now_ms()
        log.warning(
            "chain_reorganised", cursor=cursor.name, block=cursor.block_number, events_undone=len(gone)
        )

        def work(session: Session) -> None:
            undo(session, gone, latest, now)
            _correct(session, exits, now)
            hash_there = bytes(32) if restart is None else restart.hash
            queries.move_cursor(session, cursor.name, start - 1, hash_there)

        await self._database.write(work)
        reach("deposits.rewound")

    async def _has(self, row: ChainEventRow) -> bool:
        block = await self._chain.block(row.block_number)
        return block is not None and block.hash == row.block_hash


def position_of(event: ChainEvent) -> Position:
    """Return where on the chain an event is, to be compared with a cursor's position."""
    return event.place.block_number, event.place.log_index


def _cancelled(rows: Sequence[ChainEventRow]) -> set[str]:
    return {row.account_id for row in rows if row.kind == CANCELLED}


def _correct(session: Session, exits: dict[str, Exit], now: int) -> None:
    for address, found in exits.items():
        amount = NanoUsd(min(found.amount, MOST))
        ledger.note_withdrawal_request(session, Address(address), amount, found.payable_at * 1000, now)
