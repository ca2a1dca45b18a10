"""Statements about epochs: who is due, which receipts belong to an epoch, its rows, and how far it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.storage.queries.accounts import A
from marketplace.storage.tables import Account, EpochRow, ReceiptRow, SettlementRow
from tallystick.protocol.money import SCALE

P = EpochRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it
R = ReceiptRow.__table__  # type: ignore[attr-defined]
S = SettlementRow.__table__  # type: ignore[attr-defined]


_FEW_AT_A_TIME = {"yield_per": 10_000}
"""So that a million rows are never held at once."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Nano-dollars: what operators have matured and not been settled, and how accounts on credit stand."""

    owed: int
    credit_unspent: int
    credit_immature: int


_LEAVING = and_(A.c.requested > 0, A.c.requested > A.c.balance - SCALE)


def leaves(account: Account) -> bool:
    """Return whether a withdrawal may take what the account owes, or the right to charge it, with it.

    What it owes is not in `balance` any more, so a request that leaves something there can wait: were every
    request a reason, a standing one for next to nothing would have dust settled in each epoch. The Ledger
    takes the right back with all but a fraction of a token unit.
    """
    return account.requested > 0 and account.requested > account.balance - SCALE


def debtors(session: Session, threshold: int, matured_before: int) -> Sequence[Account]:
    """Return wallets whose spending may be due: worth a row, leaving, or accruing since before then (ms)."""
    is_due = or_(
        A.c.spent_matured - A.c.spent_settled >= threshold,
        _LEAVING,
        A.c.spent_since <= matured_before,
    )
    return _wallets(session, A.c.spent_matured > A.c.spent_settled, is_due)


def creditors(session: Session, threshold: int, matured_before: int) -> Sequence[Account]:
    """Return wallets whose earnings may be due: worth a row, or accruing since before then (ms)."""
    is_due = or_(A.c.earned - A.c.earned_settled >= threshold, A.c.earned_since <= matured_before)
    return _wallets(session, A.c.earned > A.c.earned_settled, is_due)


def sums(session: Session) -> Sums:
    """Return what is owed to operators, and what accounts on credit have left and have not matured."""
    is_wallet, is_email = A.c.kind == AccountKind.WALLET.value, A.c.kind == AccountKind.EMAIL.value
    return Sums(
        owed=_sum(session, A.c.earned - A.c.earned_settled, is_wallet),
        credit_unspent=_sum(session, A.c.balance, is_email),
        credit_immature=_sum(session, A.c.spent - A.c.spent_matured, is_email),
    )


def outstanding(session: Session) -> int:
    """Return what operators have earned, matured or not, beyond what the chain has credited; nano-dollars."""
    everything = A.c.earned + A.c.earned_pending - A.c.earned_settled
    return _sum(session, everything, A.c.kind == AccountKind.WALLET.value)


def unacknowledged(session: Session) -> Sequence[Account]:
    """Return the operators that have matured more than their last cheque says, longest waiting first."""
    statement = select(Account).where(A.c.kind == AccountKind.WALLET.value, A.c.earned > A.c.acknowledged)
    order = (A.c.earned_since, A.c.id)
    return session.scalars(statement.order_by(*order).execution_options(populate_existing=True)).all()


def acknowledged_unsettled(session: Session) -> int:
    """Return what cheques say beyond what the chain has credited, over all operators; nano-dollars."""
    is_open = (A.c.kind == AccountKind.WALLET.value) & (A.c.acknowledged > A.c.earned_settled)
    return _sum(session, A.c.acknowledged - A.c.earned_settled, is_open)


def last_sealed(session: Session) -> EpochRow | None:
    """Return the latest epoch that was put together."""
    return _one(session, select(EpochRow).order_by(P.c.number.desc()).limit(1))


def unfinished(session: Session) -> EpochRow | None:
    """Return the epoch that is on its way to the chain."""
    return _one(session, select(EpochRow).where(P.c.state != "closed").order_by(P.c.number).limit(1))


def epoch(session: Session, number: int) -> EpochRow | None:
    """Return an epoch that was put together."""
    return _one(session, select(EpochRow).where(P.c.number == number))


def published_files(session: Session) -> Sequence[bytes]:
    """Return the hashes of the files of all epochs that have one, in order of the epochs."""
    statement = select(P.c.file_hash).where(P.c.state != "sealed").order_by(P.c.number)
    return session.scalars(statement).all()


def change_epoch(session: Session, number: int, **values: object) -> bool:
    """Set fields of an epoch; return whether it is there."""
    result = session.execute(update(P).where(P.c.number == number).values(**values))
    return bool(result.rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def is_still(session: Session, was: EpochRow) -> bool:
    """Return whether an epoch is open and has the rows that it had when `was` was read.

    It stays so to the end of the work. An epoch whose rows are planned anew is sealed until its file, which
    has another hash then, is published.
    """
    statement = select(P.c.state, P.c.file_hash).where(P.c.number == was.number).with_for_update()
    now = session.execute(statement).one_or_none()
    if now is None or now.state == "closed" or now.file_hash != was.file_hash:
        return False
    return bool((now.state == "sealed") == (was.state == "sealed"))


def unassigned_receipts(session: Session) -> Iterator[bytes]:
    """Give the ids of matured receipts that are in no epoch that was put together, in order."""
    yield from session.scalars(_unassigned(R.c.id).order_by("id"), execution_options=_FEW_AT_A_TIME)


def count_unassigned(session: Session) -> int:
    """Return how many ids `unassigned_receipts` gives."""
    return session.scalar(select(func.count()).select_from(_unassigned(R.c.id).subquery())) or 0


def _unassigned(column: Any) -> CompoundSelect[Any]:
    last = select(func.coalesce(func.max(P.c.number), -1)).scalar_subquery()
    # Two questions, each with an index of its own: joined by OR, SQLite would read every receipt there is.
    never = select(column).where(R.c.matured.is_(True), R.c.epoch.is_(None))
    not_yet = select(column).where(R.c.matured.is_(True), R.c.epoch.is_not(None), R.c.epoch > last)
    return union_all(never, not_yet)


def assign_receipts(session: Session, number: int, first_leaf: int, ids: Sequence[bytes]) -> None:
    """Give receipts their epoch and their places in its tree, from `first_leaf` on."""
    statement = update(R).where(R.c.id == bindparam("receipt")).values(epoch=number, leaf=bindparam("place"))
    places = [{"receipt": one, "place": first_leaf + at} for at, one in enumerate(ids)]
    if places:
        session.connection().execute(statement, places)


def receipts_of(session: Session, number: int, first_leaf: int, limit: int) -> Sequence[Any]:
    """Return (body, payer) of an epoch's receipts in the order of its tree, from `first_leaf` on."""
    statement = select(R.c.body, R.c.payer_id).where(R.c.epoch == number, R.c.leaf >= first_leaf)
    return session.execute(statement.order_by(R.c.leaf).limit(limit)).all()


def receipt_ids_of(session: Session, number: int) -> Sequence[bytes]:
    """Return the ids of an epoch's receipts in the order of its tree."""
    return session.scalars(select(R.c.id).where(R.c.epoch == number).order_by(R.c.leaf)).all()


def receipt_ids_between(session: Session, number: int, places: range) -> Sequence[bytes]:
    """Return the ids at consecutive places of an epoch's tree, of those receipts that are in the books."""
    is_there = (R.c.epoch == number) & (R.c.leaf >= places.start) & (R.c.leaf < places.stop)
    return session.scalars(select(R.c.id).where(is_there).order_by(R.c.leaf)).all()


def rows_of(session: Session, number: int) -> Sequence[SettlementRow]:
    """Return an epoch's rows in the order in which they are sent; the set-aside ones are among them."""
    order = (S.c.chunk, S.c.kind, S.c.position, S.c.address)
    statement = select(SettlementRow).where(S.c.epoch == number).order_by(*order)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def rows_of_chunk(session: Session, number: int, chunk: int) -> Sequence[SettlementRow]:
    """Return the rows that are sent with one transaction of an epoch, in their order."""
    in_it = (S.c.epoch == number) & (S.c.chunk == chunk) & S.c.set_aside.is_(None)
    statement = select(SettlementRow).where(in_it).order_by(S.c.position)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def rows_of_account(session: Session, number: int, account_id: str) -> Sequence[SettlementRow]:
    """Return the rows of an epoch that are one account's."""
    statement = select(SettlementRow).where(S.c.epoch == number, S.c.account_id == account_id)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def add_rows(session: Session, rows: Sequence[SettlementRow]) -> None:
    """Store rows."""
    values = [{column.name: getattr(row, column.name) for column in S.columns} for row in rows]
    if values:
        session.connection().execute(insert(S), values)


def drop_rows(session: Session, number: int, first_chunk: int) -> None:
    """Forget the rows of an epoch from a chunk on, but not those that were set aside."""
    statement = delete(S).where(S.c.epoch == number, S.c.chunk >= first_chunk, S.c.set_aside.is_(None))
    session.execute(statement)


def _wallets(session: Session, *conditions: ColumnElement[bool]) -> Sequence[Account]:
    statement = select(Account).where(A.c.kind == AccountKind.WALLET.value, *conditions).order_by(A.c.id)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def _sum(session: Session, column: ColumnElement[int], condition: ColumnElement[bool]) -> int:
    return int(session.scalar(select(func.coalesce(func.sum(column), 0)).where(condition)) or 0)


def _one(session: Session, statement: Select[Any]) -> EpochRow | None:
    found: EpochRow | None = session.scalar(statement.execution_options(populate_existing=True))
    return found
