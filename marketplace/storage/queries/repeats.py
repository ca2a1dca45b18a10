"""Statements about `Idempotency-Key`s that were used."""

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from marketplace.storage.dialects import insert_or_ignore
from marketplace.storage.tables import RepeatKey

P = RepeatKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def add(session: Session, key_id: bytes, fingerprint: bytes, expires_at: int) -> bool:
    """Note a key that makes something; return False if it is noted already."""
    values = {"id": key_id, "fingerprint": fingerprint, "expires_at": expires_at}
    return bool(session.execute(insert_or_ignore(session, P).values(**values)).rowcount == 1)  # type: ignore[attr-defined]


def find(session: Session, key_id: bytes) -> RepeatKey | None:
    """Return a key as it is now."""
    return session.get(RepeatKey, key_id, populate_existing=True)


def take_over(session: Session, seen: RepeatKey, fingerprint: bytes, expires_at: int) -> bool:
    """Use a key again whose request made nothing; return False if somebody else was quicker."""
    made = P.c.made.is_(None) if seen.made is None else P.c.made == seen.made
    values = {"fingerprint": fingerprint, "made": None, "expires_at": expires_at}
    statement = update(P).where(P.c.id == seen.id, P.c.expires_at == seen.expires_at, made).values(**values)
    return bool(session.execute(statement).rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def remember(session: Session, key_id: bytes, made: str, expires_at: int) -> None:
    """Note what a key's request has made."""
    session.execute(update(P).where(P.c.id == key_id).values(made=made, expires_at=expires_at))


def forget(session: Session, key_id: bytes) -> None:
    """A key's request has made nothing."""
    session.execute(delete(P).where(P.c.id == key_id))


def sweep(session: Session, now: int) -> int:
    """Forget what has expired; return how much it was."""
    return int(session.execute(delete(P).where(P.c.expires_at <= now)).rowcount)  # type: ignore[attr-defined]
