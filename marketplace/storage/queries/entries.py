"""The journal."""

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, func, insert, select, text
from sqlalchemy.orm import Session

from marketplace.domain.accounts import EntryKind
from marketplace.storage.prepared import Prepared
from marketplace.storage.tables import GRANT, Entry

E = Entry.__table__  # type: ignore[attr-defined]  # SQLModel makes it

_insert = Prepared(
    insert(E).values(
        {
            "at": bindparam("now"),
            "account_id": bindparam("owner"),
            "kind": bindparam("what"),
            "amount": bindparam("amount"),
            "reference": bindparam("ref"),
        }
    )
)

Line = tuple[str, EntryKind, int]
"""Account, kind, and amount in nano-dollars as the account sees it."""


def add(session: Session, lines: Iterable[Line], *, now: int, reference: str) -> None:
    """Append `lines`; those of amount 0 are left out."""
    rows = [
        {"now": now, "owner": account_id, "what": kind.value, "amount": amount, "ref": reference}
        for account_id, kind, amount in lines
        if amount
    ]
    if rows:
        _insert.run_all(session, rows)


def of_account(session: Session, account_id: str, *, limit: int) -> Sequence[Entry]:
    """Return the account's lines, the newest first."""
    statement = select(Entry).where(E.c.account_id == account_id).order_by(E.c.id.desc()).limit(limit)
    return session.scalars(statement).all()


def granted_since(session: Session, prefix: str, since: int) -> int:
    """Return what was granted after a time under references that begin with `prefix`; nano-dollars."""
    granted = select(func.coalesce(func.sum(E.c.amount), 0)).where(
        text(GRANT), E.c.at > since, E.c.reference.startswith(prefix, autoescape=True)
    )
    return int(session.scalar(granted) or 0)
