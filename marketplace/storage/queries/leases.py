"""Statements about leases: who may do the scheduled work, until when."""

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from marketplace.storage.dialects import insert_or_ignore
from marketplace.storage.tables import Lease

L = Lease.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def take(session: Session, name: str, holder: str, *, now: int, until: int) -> bool:
    """Give `holder` the lease until then (ms) if it has it or nobody has; return whether it has it now."""
    free = or_(L.c.holder == holder, L.c.until <= now)
    statement = update(L).where(L.c.name == name, free).values(holder=holder, until=until)
    if session.execute(statement).rowcount == 1:  # type: ignore[attr-defined]  # a CursorResult
        return True
    made = insert_or_ignore(session, L).values(name=name, holder=holder, until=until)
    return bool(session.execute(made).rowcount == 1)  # type: ignore[attr-defined]


def give_back(session: Session, name: str, holder: str) -> None:
    """End the lease, if `holder` has it."""
    session.execute(update(L).where(L.c.name == name, L.c.holder == holder).values(until=0))
