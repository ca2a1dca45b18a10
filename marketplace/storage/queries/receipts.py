"""Statements about receipts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from marketplace.storage.prepared import Prepared
from marketplace.storage.queries.accounts import A
from marketplace.storage.tables import ReceiptRow

R = ReceiptRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it

_INSERTED = (
    "id",
    "job_id",
    "attempt",
    "account_id",
    "payer_id",
    "operator_id",
    "node",
    "charge",
    "fee",
    "body",
    "taken_at",
    "taken_epoch",
    "taken_signature",
    "matures_at",
)
_insert = Prepared(insert(R).values(**{name: bindparam(name) for name in _INSERTED}, matured=False))


def add(session: Session, **values: Any) -> None:
    """Store a taken receipt."""
    _insert.run(session, **values)


def find(session: Session, receipt_id: bytes) -> ReceiptRow | None:
    """Return a receipt."""
    return session.scalar(select(ReceiptRow).where(R.c.id == receipt_id))


def for_attempt(session: Session, job_id: bytes, attempt: int) -> ReceiptRow | None:
    """Return the receipt that was taken for one attempt at a job."""
    return session.scalar(select(ReceiptRow).where(R.c.job_id == job_id, R.c.attempt == attempt))


def ids_of_job(session: Session, job_id: bytes, *, payer_id: str) -> Sequence[bytes]:
    """Return the ids of a job's receipts that one account pays, attempt by attempt."""
    mine = (R.c.job_id == job_id) & (R.c.payer_id == payer_id)
    return session.scalars(select(R.c.id).where(mine).order_by(R.c.attempt)).all()


def paid_by(session: Session, payer_id: str, since: int) -> Sequence[Any]:
    """Return (operator's address, sum of the charges) of what an account paid after a time.

    Every receipt is read for that, unless the account is the treasury, for which there is an index.
    """
    # Word for word as in the condition of the index.
    payer: BindParameter[str] = bindparam("payer", payer_id, literal_execute=True)
    statement = (
        select(A.c.address, func.sum(R.c.charge))
        .join_from(R, A, A.c.id == R.c.operator_id)
        .where(R.c.payer_id == payer, R.c.taken_at > since)
        .group_by(A.c.address)
    )
    return session.execute(statement).all()


def charged_for_job(session: Session, job_id: bytes) -> int:
    """Return what all receipts of a job charge, in nano-dollars, whoever pays."""
    return int(
        session.scalar(select(func.coalesce(func.sum(R.c.charge), 0)).where(R.c.job_id == job_id)) or 0
    )


def ripe(session: Session, now: int, limit: int) -> Sequence[Any]:
    """Return (id, payer, operator, charge, fee) of up to `limit` receipts to mature, the oldest first.

    Rows that another process has locked are left to it.
    """
    statement = (
        select(R.c.id, R.c.payer_id, R.c.operator_id, R.c.charge, R.c.fee)
        .where(R.c.matured.is_(False), R.c.matures_at <= now)
        .order_by(R.c.matures_at, R.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.execute(statement).all()


def set_matured(session: Session, receipt_ids: Sequence[bytes], batch: int) -> None:
    """Mark receipts as matured into a batch."""
    for start in range(0, len(receipt_ids), 500):
        some = R.c.id.in_(receipt_ids[start : start + 500])
        session.execute(update(R).where(some).values(matured=True, batch=batch))


def of_account(session: Session, account_id: str, *, after: bytes | None, limit: int) -> Sequence[ReceiptRow]:
    """Return up to `limit` receipts that the account pays, the oldest first, those after the receipt `after`.

    Parts of its failed jobs, which the treasury pays, are not among them.
    """
    statement = select(ReceiptRow).where(R.c.account_id == account_id, R.c.payer_id == account_id)
    last = None if after is None else find(session, after)
    if last is not None:
        later = (R.c.taken_at > last.taken_at) | ((R.c.taken_at == last.taken_at) & (R.c.id > last.id))
        statement = statement.where(later)
    return session.scalars(statement.order_by(R.c.taken_at, R.c.id).limit(limit)).all()
