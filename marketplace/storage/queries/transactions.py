"""Statements about the transactions that the coordinator sends."""

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from marketplace.storage.dialects import upsert
from marketplace.storage.tables import TransactionRow

T = TransactionRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def find(session: Session, purpose: str) -> TransactionRow | None:
    """Return the transaction that was made for a purpose."""
    statement = select(TransactionRow).where(T.c.purpose == purpose)
    return session.scalar(statement.execution_options(populate_existing=True))


def is_live(session: Session, purpose: str) -> bool:
    """Return whether a transaction for a purpose was mined, or may be as it was signed."""
    found = find(session, purpose)
    return found is not None and found.state in ("signed", "mined")


def put(session: Session, row: TransactionRow, before: TransactionRow | None) -> bool:
    """Store a transaction in place of `before`, if that is still the one for its purpose; return whether."""
    found = find(session, row.purpose)
    if _facts(found) != _facts(before):
        return False
    values = {column.name: getattr(row, column.name) for column in T.columns}
    statement = upsert(session, T).values(**values)
    session.execute(statement.on_conflict_do_update(index_elements=[T.c.purpose], set_=values))
    return True


def _facts(row: TransactionRow | None) -> tuple[bytes, str] | None:
    return None if row is None else (row.hash, row.state)


def change(session: Session, purpose: str, transaction: bytes, **values: object) -> bool:
    """Set fields of a transaction, if it is still the one for its purpose; return whether it was."""
    statement = update(T).where(T.c.purpose == purpose, T.c.hash == transaction).values(**values)
    return bool(session.execute(statement).rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def between(session: Session, sender: str, first: int, end: int) -> Sequence[TransactionRow]:
    """Return the sender's transactions with nonces from `first` to before `end` that may yet succeed."""
    is_alive = T.c.state.in_(("signed", "mined"))
    statement = select(TransactionRow).where(
        T.c.sender == sender, T.c.nonce >= first, T.c.nonce < end, is_alive
    )
    return session.scalars(statement.order_by(T.c.nonce)).all()


def with_prefix(session: Session, prefix: str) -> Sequence[TransactionRow]:
    """Return the transactions whose purpose starts so, in the order of their nonces."""
    statement = select(TransactionRow).where(T.c.purpose.startswith(prefix, autoescape=True))
    return session.scalars(statement.order_by(T.c.nonce)).all()


def next_nonce(session: Session, sender: str) -> int:
    """Return one more than the highest nonce that the sender has a waiting transaction with, or 0."""
    statement = select(func.max(T.c.nonce)).where(T.c.sender == sender, T.c.state == "signed")
    highest = session.scalar(statement)
    return 0 if highest is None else highest + 1
