"""Statements about what proves who somebody is, once or for a while: nonces, mailed links, sessions."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from marketplace.storage.tables import EmailToken, SignInNonce
from marketplace.storage.tables import Session as SessionRow

N = SignInNonce.__table__  # type: ignore[attr-defined]  # SQLModel makes it
M = EmailToken.__table__  # type: ignore[attr-defined]  # SQLModel makes it
S = SessionRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def use_nonce(session: Session, nonce: str, now: int) -> bool:
    """Use a nonce up; return whether there was one that had not expired."""
    found = session.execute(delete(N).where(N.c.nonce == nonce).returning(N.c.expires_at)).first()
    return found is not None and found[0] > now


def use_link(session: Session, digest: bytes, now: int) -> str | None:
    """Use a mailed link up; return its account, None if there is no such link or it has expired."""
    used = delete(M).where(M.c.hash == digest).returning(M.c.account_id, M.c.expires_at)
    found = session.execute(used).first()
    return None if found is None or found[1] <= now else str(found[0])


def session_account(session: Session, digest: bytes, now: int) -> str | None:
    """Return whose session it is, None if there is no such session or it has expired."""
    account_id: str | None = session.scalar(
        select(S.c.account_id).where(S.c.hash == digest, S.c.expires_at > now)
    )
    return account_id


def end_session(session: Session, digest: bytes) -> None:
    """Forget a session."""
    session.execute(delete(S).where(S.c.hash == digest))


def sweep(session: Session, now: int) -> int:
    """Forget what has expired; return how much it was."""
    tables = (N, M, S)
    return sum(session.execute(delete(one).where(one.c.expires_at <= now)).rowcount for one in tables)  # type: ignore[attr-defined]
