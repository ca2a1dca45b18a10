"""Statements about epochs: who is due, which receipts belong to an epoch, its rows, and how far it is.

Receipts mature into the batch that is open. `cut` opens the next one: from then on it is fixed what has
matured before, and an epoch is made of that. Nothing is written to the receipts when it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.ports.chain import FaultKind
from marketplace.storage.queries.accounts import A
from marketplace.storage.tables import Account, EpochRow, OpenBatch, ReceiptRow, SettlementRow
from tallystick.protocol.money import SCALE

B = OpenBatch.__table__  # type: ignore[attr-defined]  # SQLModel makes it
P = EpochRow.__table__  # type: ignore[attr-defined]
R = ReceiptRow.__table__  # type: ignore[attr-defined]
S = SettlementRow.__table__  # type: ignore[attr-defined]


_FEW_AT_A_TIME = {"yield_per": 10_000}
"""So that a million rows are never held at once."""

OVERTAKEN_EPOCHS = 2
"""Whose rows a cheque can have overtaken when it is deep enough to count: the latest epochs."""


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


def closed_from(session: Session, number: int) -> Sequence[int]:
    """Return the closed epochs from `number` on, in order."""
    statement = select(P.c.number).where(P.c.state == "closed", P.c.number >= number).order_by(P.c.number)
    return session.scalars(statement).all()


def epoch(session: Session, number: int) -> EpochRow | None:
    """Return an epoch that was put together."""
    return _one(session, select(EpochRow).where(P.c.number == number))


def published_files(session: Session) -> Sequence[bytes]:
    """Return the hashes of the files of all epochs that have one, in order of the epochs."""
    statement = select(P.c.file_hash).where(P.c.state != "sealed").order_by(P.c.number)
    return session.scalars(statement).all()


def advance_under_way(session: Session) -> int:
    """Return by how much what the treasury may promise falls when the epoch that is on its way is closed;
    nano-dollars, never less than 0."""
    epoch = unfinished(session)
    if epoch is None:
        return 0
    own = rows_of_account(session, epoch.number, TREASURY_ID)
    return max(0, advance_of(own) - (epoch.credit or 0))


def advance_of(rows: Sequence[SettlementRow]) -> int:
    """Return what rows take of the treasury's deposit."""
    is_advance = (one for one in rows if one.account_id == TREASURY_ID and one.kind == FaultKind.CHARGE)
    return sum(one.amount - one.before for one in is_advance if one.set_aside is None)


def change_epoch(session: Session, number: int, **values: object) -> bool:
    """Set fields of an epoch; return whether it is there."""
    result = session.execute(update(P).where(P.c.number == number).values(**values))
    return bool(result.rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def is_still(session: Session, was: EpochRow) -> bool:
    """Return whether an epoch is open and has the rows that it had when `was` was read.

    It stays so to the end of the work.
    """
    statement = select(P.c.state, P.c.file_hash).where(P.c.number == was.number).with_for_update()
    now = session.execute(statement).one_or_none()
    return now is not None and has_same_rows(now, was)


def has_same_rows(now: EpochRow | Row[Any], was: EpochRow) -> bool:
    """Return whether an epoch is open and has the rows that it had.

    One whose rows are planned anew is sealed until its file, which has another hash then, is published.
    """
    if now.state == "closed" or now.file_hash != was.file_hash:
        return False
    return bool((now.state == "sealed") == (was.state == "sealed"))


@dataclass(frozen=True, slots=True)
class Cut:
    """The receipts of the batches after one, up to another."""

    after: int
    last: int


def open_batch(session: Session) -> int:
    """Return the batch that receipts mature into; it stays open to the end of the work."""
    return int(session.execute(select(B.c.number).with_for_update(read=True)).scalar_one())


def cut(session: Session) -> Cut:
    """Return all receipts that have matured and are in no epoch; what matures later is not among them."""
    session.execute(update(B).values(number=B.c.number + 1))
    return Cut(_last_batch(session), open_batch(session) - 1)


def cut_of(session: Session, epoch: EpochRow) -> Cut:
    """Return the receipts of an epoch that was put together."""
    before = select(func.max(P.c.last_batch)).where(P.c.last_batch < epoch.last_batch)
    found = session.scalar(before)
    return Cut(-1 if found is None else found, epoch.last_batch)


def batch_before_free(session: Session) -> int:
    """Return a new batch, without receipts, that comes before all receipts that are in no epoch."""
    made_of = cut(session)
    session.execute(update(R).where(_in(session, made_of)).values(batch=made_of.last + 1))
    return made_of.last


def store(session: Session, epoch: EpochRow, made_of: Cut) -> bool:
    """Add an epoch that was put together, unless another was meanwhile; return whether."""
    # Whoever else stores one now waits here.
    session.execute(select(B.c.number).with_for_update()).one()
    another = session.scalar(
        select(func.count()).where(or_(P.c.number >= epoch.number, P.c.state != "closed"))
    )
    if another or _last_batch(session) != made_of.after:
        return False
    session.add(epoch)
    session.flush()
    return True


def epoch_of(batch: Any) -> Any:
    """Return, as a term, the number of the epoch that has a batch, NULL if none."""
    found = select(P.c.number).where(P.c.last_batch >= batch).order_by(P.c.last_batch).limit(1)
    return found.scalar_subquery()


def count_receipts(session: Session, made_of: Cut) -> int:
    """Return how many receipts there are."""
    return session.scalar(select(func.count()).select_from(R).where(_in(session, made_of))) or 0


def receipts_of(session: Session, made_of: Cut) -> Iterator[Any]:
    """Give (body, payer) of receipts in the order of their ids, which is that of an epoch's tree."""
    statement = select(R.c.body, R.c.payer_id).where(_in(session, made_of)).order_by(R.c.id)
    yield from session.execute(statement, execution_options=_FEW_AT_A_TIME)


def receipt_ids_of(session: Session, made_of: Cut) -> Iterator[bytes]:
    """Give the ids of receipts in order."""
    statement = select(R.c.id).where(_in(session, made_of)).order_by(R.c.id)
    yield from session.scalars(statement, execution_options=_FEW_AT_A_TIME)


def receipt_ids_between(session: Session, made_of: Cut, first: bytes, end: bytes) -> Sequence[bytes]:
    """Return the ids from `first` on and before `end` of receipts that are in the books, in order."""
    is_there = _in(session, made_of) & (R.c.id >= first) & (R.c.id < end)
    return session.scalars(select(R.c.id).where(is_there).order_by(R.c.id)).all()


def _in(session: Session, made_of: Cut) -> Any:
    """Return the condition that a receipt is in a cut, by naming the one or few batches that are not empty.

    With a range instead, the index would not give the receipts in the order of their ids.
    """
    batches: list[int] = []
    at: int | None = made_of.after
    while (
        at := session.scalar(select(func.min(R.c.batch)).where(R.c.batch > at, R.c.batch <= made_of.last))
    ) is not None:
        batches.append(at)
    return R.c.batch.in_(batches)


def _last_batch(session: Session) -> int:
    return int(session.execute(select(func.coalesce(func.max(P.c.last_batch), -1))).scalar_one())


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


def note_cheques(session: Session, number: int) -> None:
    """Say of new payout rows what cheques had credited that were booked while the rows were planned."""
    settled = select(A.c.earned_settled).where(A.c.id == S.c.account_id, A.c.kind == AccountKind.WALLET.value)
    _overtake(session, S.c.epoch == number, settled.scalar_subquery())


def note_cashed(session: Session, address: str, credited: int) -> None:
    """Say of a payout row that a cheque overtook that it moved only what was left; nano-dollars, in all."""
    latest = select(P.c.number).order_by(P.c.number.desc()).limit(OVERTAKEN_EPOCHS)
    _overtake(session, S.c.epoch.in_(latest) & (S.c.address == address), credited)


def _overtake(session: Session, among: ColumnElement[bool], credited: Any) -> None:
    """Let payout rows begin at what a cheque has credited, if it was cashed with the row on its way.

    One that was cashed after the row was on the chain credits more than the row does, one from before it was
    planned no more than what it began at.
    """
    is_sent = (S.c.kind == FaultKind.PAYOUT.value) & S.c.set_aside.is_(None)
    overtaken = (S.c.before < credited) & (S.c.amount >= credited)
    session.execute(update(S).where(among & is_sent & overtaken).values(before=credited))


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
