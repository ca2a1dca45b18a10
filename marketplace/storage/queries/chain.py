"""Statements about how far the chain was read, and which of its events are in the books."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from marketplace.storage.dialects import insert_or_ignore, upsert
from marketplace.storage.tables import WHOLE_BLOCK, Account, ChainCursor, ChainEventRow

A = Account.__table__  # type: ignore[attr-defined]  # SQLModel makes it
C = ChainCursor.__table__  # type: ignore[attr-defined]
E = ChainEventRow.__table__  # type: ignore[attr-defined]


def cursor(session: Session, name: str) -> ChainCursor | None:
    """Return how far `name` has read."""
    return session.scalar(
        select(ChainCursor).where(C.c.name == name).execution_options(populate_existing=True)
    )


def move_cursor(
    session: Session, name: str, block_number: int, block_hash: bytes, log_index: int = WHOLE_BLOCK
) -> None:
    """Record that `name` has read up to a block, or up to one of its events."""
    values = {"block_number": block_number, "block_hash": block_hash, "log_index": log_index}
    statement = upsert(session, C).values(name=name, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[C.c.name], set_=values))


def add_event(session: Session, row: ChainEventRow) -> bool:
    """Store an event; return False if it is there already."""
    values = {column.name: getattr(row, column.name) for column in E.columns}
    result = session.execute(insert_or_ignore(session, E).values(**values))
    return bool(result.rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def events_since(session: Session, block_number: int) -> Sequence[ChainEventRow]:
    """Return the stored events from a block on, the latest first."""
    order = (E.c.block_number.desc(), E.c.log_index.desc())
    return session.scalars(
        select(ChainEventRow).where(E.c.block_number >= block_number).order_by(*order)
    ).all()


def drop_event(session: Session, row: ChainEventRow) -> bool:
    """Forget an event that a reorganisation took back; return whether it was there."""
    statement = delete(E).where(E.c.transaction == row.transaction, E.c.log_index == row.log_index)
    return bool(session.execute(statement).rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def leaving(session: Session) -> Sequence[str]:
    """Return the addresses whose withdrawal is asked for, as far as the books know."""
    statement = select(A.c.address).where(A.c.requested > 0, A.c.address.is_not(None)).order_by(A.c.address)
    return session.scalars(statement).all()


def known_addresses(session: Session, addresses: Sequence[str]) -> set[str]:
    """Return which of the addresses have an account."""
    return set(session.scalars(select(A.c.address).where(A.c.address.in_(addresses))).all())
