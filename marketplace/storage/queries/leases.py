"""Statements about leases: who may do the scheduled work, until when."""

from dataclasses import dataclass

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from marketplace.storage.dialects import insert_or_ignore
from marketplace.storage.tables import Lease

L = Lease.__table__  # type: ignore[attr-defined]  # SQLModel makes it


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has a lease, until when (ms)."""

    holder: str
    until: int


def take(
    session: Session, name: str, holder: str, *, now: int, until: int, dead: Claim | None = None
) -> tuple[bool, Claim | None]:
    """Give `holder` the lease until then (ms) if it has it, or nobody has, or a claim that is `dead`.

    Return whether it has it now, and otherwise whose it is.
    """
    free = or_(L.c.holder == holder, L.c.until <= now)
    if dead is not None:
        free = or_(free, (L.c.holder == dead.holder) & (L.c.until == dead.until))
    statement = update(L).where(L.c.name == name, free).values(holder=holder, until=until)
    if session.execute(statement).rowcount == 1:  # type: ignore[attr-defined]  # a CursorResult
        return True, None
    made = insert_or_ignore(session, L).values(name=name, holder=holder, until=until)
    if session.execute(made).rowcount == 1:  # type: ignore[attr-defined]
        return True, None
    found = session.execute(select(L.c.holder, L.c.until).where(L.c.name == name)).one()
    return False, Claim(*found)


def give_back(session: Session, name: str, holder: str) -> None:
    """End the lease, if `holder` has it."""
    session.execute(update(L).where(L.c.name == name, L.c.holder == holder).values(until=0))
