"""What the books took from the chain is on the chain, and nothing that they should have taken is missing."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.ports.chain import Authorized, Chain, ConsentKeyAdded, Deposited, Withdrawn
from marketplace.services.audit_books import Finding
from marketplace.services.chain_books import CANCELLED, CONSENT_KEY, MOST
from marketplace.services.deposits import CONFIRMED, FRESH, Position, position_of
from marketplace.storage.database import Database
from marketplace.storage.queries import chain as queries
from marketplace.storage.queries.transactions import T
from marketplace.storage.tables import ChainCursor, ChainEventRow
from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import to_hex

LOOKS: Final = 4
PAUSE_S: Final = 1.0
_Place = tuple[bytes, int]


_NOWHERE: Position = (-1, 0)


@dataclass(frozen=True, slots=True)
class _Event:
    """An event as the books keep it; the amount of a right is what it was then, and not compared."""

    kind: str
    account: str
    amount: int | None
    block: int


async def audit_events(database: Database, chain: Chain, first_block: int) -> Sequence[Finding]:
    """Return what the books and the chain do not both have, up to where the books have read.

    Raises ChainUnavailable.
    """
    findings = await _differences(database, chain, first_block)
    for _ in range(LOOKS - 1):
        if not findings:
            break
        # A reorganisation is on its way into the books, or a block came while they were compared.
        await asyncio.sleep(PAUSE_S)
        again = await _differences(database, chain, first_block)
        findings = [one for one in again if one in findings]
    return findings


def audit_transactions(session: Session) -> list[Finding]:
    """Return the stored transactions whose bytes are not those of their hash."""
    rows = session.execute(select(T.c.purpose, T.c.raw, T.c.hash))
    return [
        Finding(f"transaction {purpose}", "its hash is that of its bytes", detail=f"found {to_hex(found)}")
        for purpose, raw, found in rows
        if keccak256(raw) != found
    ]


async def _differences(database: Database, chain: Chain, first_block: int) -> list[Finding]:
    stored, cursors = await database.read(_stored)
    findings = [finding for cursor in cursors if (finding := await _lost(chain, cursor)) is not None]
    read_to = {cursor.name: cursor.position for cursor in cursors}
    there = await _on_chain(chain, first_block, read_to)
    for place in sorted(stored.keys() | there.keys()):
        mine, its = stored.get(place), there.get(place)
        if mine != its:
            subject = f"{to_hex(place[0])}/{place[1]}"
            detail = f"the chain has {_text(its)}, the books have {_text(mine)}"
            findings.append(Finding(subject, "events of the chain are in the books", detail=detail))
    return findings


def _stored(session: Session) -> tuple[Mapping[_Place, _Event], Sequence[ChainCursor]]:
    events = {
        (row.transaction, row.log_index): _Event(
            row.kind, row.account_id, None if row.kind == "authorized" else row.amount, row.block_number
        )
        for row in session.scalars(select(ChainEventRow).where(queries.E.c.kind != CANCELLED))
    }
    return events, session.scalars(select(ChainCursor).order_by(queries.C.c.name)).all()


async def _lost(chain: Chain, cursor: ChainCursor) -> Finding | None:
    block = await chain.block(cursor.block_number) if cursor.block_number >= 0 else None
    if cursor.block_number < 0 or (block is not None and block.hash == cursor.block_hash):
        return None
    detail = f"block {cursor.block_number} is another one there"
    return Finding(f"the cursor {cursor.name!r}", "the block it stands at is on the chain", detail=detail)


async def _on_chain(chain: Chain, first: int, read_to: Mapping[str, Position]) -> Mapping[_Place, _Event]:
    confirmed, fresh = read_to.get(CONFIRMED, _NOWHERE), read_to.get(FRESH, _NOWHERE)
    found: dict[_Place, _Event] = {}
    last, _ = max(confirmed, fresh)
    for event in await chain.events(first, last) if first <= last else ():
        block, at = event.place.block_number, position_of(event)
        match event:
            case Deposited(account=who, amount=amount) if at <= confirmed:
                kept = _Event("deposit", who, min(amount, MOST), block)
            case Authorized(account=who) if at <= confirmed:
                kept = _Event("authorized", who, None, block)
            case ConsentKeyAdded(account=who, key=key) if at <= confirmed:
                kept = _Event(CONSENT_KEY + key, who, 0, block)
            case Withdrawn(account=who, amount=amount) if at <= fresh:
                kept = _Event("withdrawal", who, min(amount, MOST), block)
            case _:
                continue
        found[event.place.transaction, event.place.log_index] = kept
    return found


def _text(event: _Event | None) -> str:
    if event is None:
        return "nothing"
    amount = "" if event.amount is None else f" of {event.amount} nano-dollars"
    return f"a {event.kind}{amount} of {event.account} in block {event.block}"
