"""Books against chain: what the coordinator wrote down about every account, and what the Ledger has.

    balance there = deposited − withdrawn − what rows charged      (the treasury's: its balance)
    spent there   = spent_settled
    earned there  = earned_settled, but for the treasury, whose payouts balance the pool
    right, request there = authorized, requested

The chain may be ahead of the books: rows of the epoch that is on its way count if their chunk is there, and
so does what happened in blocks that the books have not read yet. Books and chain move while they are
compared, so a difference counts once it was there several times.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.ports.chain import (
    Authorized,
    Cashed,
    Chain,
    ChainAccount,
    ChainEvent,
    Deposited,
    Exit,
    FaultKind,
    WithdrawalRequested,
    Withdrawn,
)
from marketplace.services.audit_books import Finding
from marketplace.services.chain_books import MOST
from marketplace.services.deposits import CONFIRMED, FRESH, Position, position_of
from marketplace.services.settlement.rows import sent_rows
from marketplace.storage.database import Database
from marketplace.storage.queries import chain as chain_queries
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.accounts import A
from marketplace.storage.tables import WHOLE_BLOCK, Account, EpochRow, SettlementRow
from tallystick.protocol.ids import Address

ACCOUNTS_A_READ: Final = 500
LOOKS: Final = 6
PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Books:
    """A snapshot of some accounts, how far the chain was read, and the epoch that is on its way."""

    accounts: Sequence[Account]
    read_to: Mapping[str, Position]
    epoch: EpochRow | None
    rows: Sequence[SettlementRow]
    consents: Mapping[str, int]
    """The highest consent that was ever sent with a row, by address: it raised the right without an event."""


@dataclass
class _Since:
    """What happened to one account in blocks that the books have not read."""

    deposited: int = 0
    withdrawn: int = 0
    credited: int = 0
    moved_right: bool = False
    moved_request: bool = False
    rows: dict[str, SettlementRow] = field(default_factory=dict)


async def audit_chain(database: Database, chain: Chain) -> Sequence[Finding]:
    """Return every account whose books and chain differ. Raises ChainUnavailable."""
    ids = await database.read(_on_chain)
    findings: list[Finding] = []
    for first in range(0, len(ids), ACCOUNTS_A_READ):
        findings += await _persistent(database, chain, ids[first : first + ACCOUNTS_A_READ])
    return findings


async def _persistent(database: Database, chain: Chain, ids: Sequence[str]) -> list[Finding]:
    """Look at some accounts again and again, each time only at those that differed every time before."""
    found = await _differences(database, chain, ids)
    for _ in range(LOOKS - 1):
        if not found:
            break
        await asyncio.sleep(PAUSE_S)
        again = await _differences(database, chain, sorted({one.subject for one in found}))
        seen = {(one.subject, one.rule) for one in found}
        found = [one for one in again if (one.subject, one.rule) in seen]
    return found


def _on_chain(session: Session) -> Sequence[str]:
    kinds = (AccountKind.WALLET.value, AccountKind.TREASURY.value)
    return session.scalars(select(A.c.id).where(A.c.kind.in_(kinds), A.c.address.is_not(None))).all()


def _snapshot(session: Session, ids: Sequence[str]) -> _Books:
    cursors = {name: chain_queries.cursor(session, name) for name in (FRESH, CONFIRMED)}
    epoch = queries.unfinished(session)
    rows = queries.S.c
    consents = (
        select(rows.address, func.max(rows.consent_spent))
        .where(rows.account_id.in_(ids), rows.consent_spent.is_not(None), rows.set_aside.is_(None))
        .group_by(rows.address)
    )
    return _Books(
        accounts=session.scalars(select(Account).where(A.c.id.in_(ids)).order_by(A.c.id)).all(),
        read_to={
            name: (-1, WHOLE_BLOCK) if cursor is None else cursor.position for name, cursor in cursors.items()
        },
        epoch=epoch,
        rows=() if epoch is None else sent_rows(queries.rows_of(session, epoch.number)),
        consents={who: int(spent) for who, spent in session.execute(consents)},
    )


async def _differences(database: Database, chain: Chain, ids: Sequence[str]) -> list[Finding]:
    books = await database.read(lambda session: _snapshot(session, ids))
    addresses = [Address(str(account.address)) for account in books.accounts]
    head = (await chain.head()).number
    there = await chain.accounts(addresses)
    exits = {address: await chain.exit_of(address) for address in addresses}
    since = await _since(chain, books, head)
    findings: list[Finding] = []
    for account, address in zip(books.accounts, addresses, strict=True):
        findings += _compare(account, there[address], exits[address], since.get(address, _Since()))
        if address not in since or not since[address].moved_right:
            findings += _compare_right(account, there[address], books.consents.get(address, 0))
    return findings


async def _since(chain: Chain, books: _Books, head: int) -> Mapping[str, _Since]:
    """Return what the chain has beyond the books, by address."""
    since: dict[str, _Since] = {}
    first, _ = min(books.read_to.values())
    for event in await chain.events(max(first, 0), head) if first <= head else ():
        _add(since, event, books.read_to)
    ledger = await chain.ledger()
    for row in books.rows:
        assert books.epoch is not None
        is_sent = ledger.next_epoch > row.epoch or (
            ledger.next_epoch == row.epoch and row.chunk < ledger.chunks
        )
        if is_sent:
            since.setdefault(row.address, _Since()).rows[row.kind] = row
    return since


def _add(since: dict[str, _Since], event: ChainEvent, read_to: Mapping[str, Position]) -> None:
    is_unconfirmed = position_of(event) > read_to[CONFIRMED]
    is_fresh = position_of(event) > read_to[FRESH]
    match event:
        case Deposited(account=who, amount=amount) if is_unconfirmed:
            since.setdefault(who, _Since()).deposited += amount
        case Cashed(account=who, credited=credited) if is_unconfirmed:
            since.setdefault(who, _Since()).credited = credited
        case Authorized(account=who) if is_unconfirmed:
            since.setdefault(who, _Since()).moved_right = True
        case Withdrawn(account=who, amount=amount) if is_fresh:
            one = since.setdefault(who, _Since())
            one.withdrawn += amount
            one.moved_request = True
        case WithdrawalRequested(account=who) if is_fresh:
            since.setdefault(who, _Since()).moved_request = True
        case _:
            pass


def _compare(account: Account, there: ChainAccount, leaving: Exit, since: _Since) -> Iterator[Finding]:
    charge, payout = since.rows.get(FaultKind.CHARGE), since.rows.get(FaultKind.PAYOUT)
    spent = account.spent_settled if charge is None else charge.amount
    # The treasury's balance moves with its rows, a consumer's with its charges.
    own = account.balance + (account.spent_settled if account.id == TREASURY_ID else account.spent)
    pairs: list[tuple[str, int, int]] = [
        ("the chain's balance", own - spent + since.deposited - since.withdrawn, there.balance),
        ("spent on the chain", spent, there.spent),
    ]
    if account.id != TREASURY_ID:
        # What rows pay the treasury balances the pool; its books count fees, not rows.
        earned = max(account.earned_settled if payout is None else payout.amount, since.credited)
        pairs.append(("earned on the chain", earned, there.earned))
    if not since.moved_request:
        pairs.append(("the withdrawal asked for on the chain", account.requested, min(leaving.amount, MOST)))
    for rule, expected, found in pairs:
        if expected != found:
            yield Finding(account.id, rule, expected, found)
    if (
        not since.moved_request
        and account.requested
        and account.requested_payable_at != leaving.payable_at * 1000
    ):
        detail = f"expected {leaving.payable_at * 1000}, found {account.requested_payable_at} (milliseconds)"
        yield Finding(account.id, "when its withdrawal can be paid", detail=detail)


def _compare_right(account: Account, there: ChainAccount, signed: int) -> Iterator[Finding]:
    right = min(there.authorized, MOST)
    # Leaving with everything takes a right back, also one that a consent had raised.
    if right not in (account.authorized, max(account.authorized, signed)):
        yield Finding(account.id, "the right on the chain", max(account.authorized, signed), right)
