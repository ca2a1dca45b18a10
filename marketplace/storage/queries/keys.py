"""Statements about API keys."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from marketplace.storage.prepared import Prepared
from marketplace.storage.tables import ApiKey

K = ApiKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it

_hold = Prepared(
    update(K)
    .where(
        K.c.id == bindparam("key_id"),
        K.c.account_id == bindparam("owner"),
        K.c.revoked_at.is_(None),
        or_(K.c.cap.is_(None), K.c.cap - K.c.spent - K.c.held >= bindparam("amount")),
    )
    .values(held=K.c.held + bindparam("amount"), last_used_at=bindparam("now"))
)
_settle_hold = Prepared(
    update(K)
    .where(K.c.id == bindparam("key_id"))
    .values(held=K.c.held - bindparam("hold"), spent=K.c.spent + bindparam("charge"))
)


def hold(session: Session, key_id: str, account_id: str, amount: int, now: int) -> bool:
    """Set `amount` aside under the key's cap; return False if it does not fit or the key cannot be used."""
    cursor = _hold.run(session, key_id=key_id, owner=account_id, amount=amount, now=now)
    return bool(cursor.rowcount == 1)


def settle_hold(session: Session, key_id: str, held: int, charge: int) -> None:
    """Give `held` back and count `charge` as spent with the key."""
    _settle_hold.run(session, key_id=key_id, hold=held, charge=charge)


def touch(session: Session, account_id: str, now: int) -> None:
    """Mark the account's keys as changed, so that what is remembered of them elsewhere is read again."""
    session.execute(update(K).where(K.c.account_id == account_id).values(changed_at=now))


def find(session: Session, key_id: str) -> ApiKey | None:
    """Return the key as it is now."""
    found: ApiKey | None = session.scalar(_whole().where(K.c.id == key_id))
    return found


def by_hash(session: Session, digest: bytes) -> ApiKey | None:
    """Return the key whose SHA-256 is `digest`, revoked or not."""
    found: ApiKey | None = session.scalar(_whole().where(K.c.hash == digest))
    return found


def of_account(session: Session, account_id: str) -> Sequence[ApiKey]:
    """Return the account's keys, the oldest first, revoked ones too."""
    return session.scalars(
        _whole().where(K.c.account_id == account_id).order_by(K.c.created_at, K.c.id)
    ).all()


def change(session: Session, key_id: str, account_id: str, **values: Any) -> bool:
    """Set `values` on a key of the account that is not revoked; return whether there is one."""
    statement = (
        update(K)
        .where(K.c.id == key_id, K.c.account_id == account_id, K.c.revoked_at.is_(None))
        .values(**values)
    )
    return bool(session.execute(statement).rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def changed_since(session: Session, since: int) -> Sequence[bytes]:
    """Return the SHA-256 of the keys that changed at `since` or later."""
    return session.scalars(select(K.c.hash).where(K.c.changed_at >= since)).all()


def count_usable(session: Session, account_id: str) -> int:
    """Return how many keys of the account are not revoked."""
    usable = select(func.count()).where(K.c.account_id == account_id, K.c.revoked_at.is_(None))
    return session.scalar(usable) or 0


def _whole() -> Select[Any]:
    return select(ApiKey).execution_options(populate_existing=True)
