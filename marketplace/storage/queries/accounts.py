"""Statements about accounts. What moves money is one conditional update: never read, then write."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.storage.dialects import insert_or_ignore
from marketplace.storage.prepared import Prepared
from marketplace.storage.tables import Account

A = Account.__table__  # type: ignore[attr-defined]  # SQLModel makes it

RIGHT = case((A.c.authorized > A.c.consented, A.c.authorized), else_=A.c.consented)
"""What a wallet account may be charged in all: authorized on the chain, or signed for."""

_amount: BindParameter[int] = bindparam("amount")
_hold = Prepared(
    update(A)
    .where(
        A.c.id == bindparam("account_id"),
        A.c.status == "active",
        A.c.balance - A.c.held - A.c.requested >= _amount,
        or_(
            A.c.kind == AccountKind.EMAIL.value,
            (A.c.kind == AccountKind.WALLET.value)
            & (RIGHT + bindparam("allowance") - A.c.spent - A.c.held >= _amount),
        ),
    )
    .values(held=A.c.held + _amount)
)
_settle_hold = Prepared(
    update(A)
    .where(A.c.id == bindparam("account_id"))
    .values(
        held=A.c.held - bindparam("hold"),
        balance=A.c.balance - bindparam("charge"),
        spent=A.c.spent + bindparam("charge"),
    )
)
_add_pending = Prepared(
    update(A)
    .where(A.c.address == bindparam("owner"))
    .values(earned_pending=A.c.earned_pending + _amount)
    .returning(A.c.id)
)
_add_to_treasury = Prepared(
    update(A)
    .where(A.c.kind == AccountKind.TREASURY.value)
    .values(earned_pending=A.c.earned_pending + bindparam("fee"), spent=A.c.spent + bindparam("paid"))
)
_spent: BindParameter[int] = bindparam("spent", type_=BigInteger())
_earned: BindParameter[int] = bindparam("earned", type_=BigInteger())
_now: BindParameter[int] = bindparam("now", type_=BigInteger())
_mature = Prepared(
    update(A)
    .where(A.c.id == bindparam("account_id"))
    .values(
        spent_matured=A.c.spent_matured + _spent,
        earned=A.c.earned + _earned,
        earned_pending=A.c.earned_pending - _earned,
        spent_since=case((_spent > 0, func.coalesce(A.c.spent_since, _now)), else_=A.c.spent_since),
        earned_since=case((_earned > 0, func.coalesce(A.c.earned_since, _now)), else_=A.c.earned_since),
    )
)


def hold(session: Session, account_id: str, amount: int, allowance: int) -> bool:
    """Set `amount` aside if it is available and the account may be charged so much; return whether."""
    cursor = _hold.run(session, account_id=account_id, amount=amount, allowance=allowance)
    return bool(cursor.rowcount == 1)


def begin_unsigned(session: Session, account_id: str, now: int) -> bool:
    """Note that a wallet runs ahead of its right from now on; return False if it did already."""
    return change(session, account_id, A.c.unsigned_since.is_(None), unsigned_since=now)


def caught_up(right: int) -> ColumnElement[int | None]:
    """Return what `unsigned_since` becomes when an account may be charged `right` in all."""
    return case((A.c.spent <= right, null()), else_=A.c.unsigned_since)


def unsigned_since(session: Session, since: int) -> int:
    """Return how many wallets began to run ahead of their right after a time, and have not caught up."""
    return int(session.scalar(select(func.count()).where(A.c.unsigned_since > since)) or 0)


def settle_hold(session: Session, account_id: str, held: int, charge: int) -> None:
    """Give `held` back and take `charge` of the balance."""
    _settle_hold.run(session, account_id=account_id, hold=held, charge=charge)


def add_pending(session: Session, address: str, amount: int) -> str | None:
    """Add to the earnings of the account at `address`, not matured; return its id, None without one."""
    row = _add_pending.run(session, owner=address, amount=amount).fetchone()
    return None if row is None else str(row[0])


def add_to_treasury(session: Session, *, fee: int, paid: int) -> bool:
    """Add `fee` to the treasury's earnings and `paid` to its spending; return whether there is one."""
    return bool(_add_to_treasury.run(session, fee=fee, paid=paid).rowcount == 1)


def mature(session: Session, account_id: str, *, spent: int, earned: int, now: int) -> None:
    """Count `spent` and `earned` as matured; each accrues from `now` (ms) if it did not before."""
    _mature.run(session, account_id=account_id, spent=spent, earned=earned, now=now)


def create(
    session: Session, account_id: str, kind: AccountKind, now: int, **fields: str | bool | None
) -> bool:
    """Make an account unless its id, address or email is taken; return whether it was made."""
    values = {"id": account_id, "kind": kind.value, "created_at": now, **fields}
    defaults = {"status": "active", "email_verified": False}
    result = session.execute(insert_or_ignore(session, A).values(**(defaults | values)))
    return bool(result.rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def on_credit(session: Session) -> Sequence[Account]:
    """Return the accounts without a wallet, by email."""
    return session.scalars(_whole().where(A.c.kind == AccountKind.EMAIL.value).order_by(A.c.email)).all()


def page(session: Session, *, after: str, limit: int, status: str = "") -> Sequence[Account]:
    """Return up to `limit` accounts by id, those after an id; with `status` only those that have it."""
    statement = _whole().where(A.c.id > after).order_by(A.c.id).limit(limit)
    return session.scalars(statement.where(A.c.status == status) if status else statement).all()


def find(session: Session, account_id: str) -> Account | None:
    """Return the account as it is now."""
    found: Account | None = session.scalar(_whole().where(A.c.id == account_id))
    return found


def lock(session: Session, account_id: str) -> Account | None:
    """Return the account as it is now; nobody else changes it before the end of the work."""
    found: Account | None = session.scalar(_whole().where(A.c.id == account_id).with_for_update())
    return found


def by_address(session: Session, address: str) -> Account | None:
    """Return the account at `address`."""
    found: Account | None = session.scalar(_whole().where(A.c.address == address))
    return found


def by_email(session: Session, email: str) -> Account | None:
    """Return the account of `email` (lower case)."""
    found: Account | None = session.scalar(_whole().where(A.c.email == email))
    return found


def change(session: Session, account_id: str, *conditions: object, **values: object) -> bool:
    """Set `values` (expressions allowed) if `conditions` hold; return whether they did."""
    statement = update(A).where(A.c.id == account_id, *conditions).values(**values)  # type: ignore[arg-type]
    return bool(session.execute(statement).rowcount == 1)  # type: ignore[attr-defined]  # a CursorResult


def ids_with_kind(session: Session, kind: AccountKind) -> Sequence[str]:
    """Return the ids of all accounts of `kind`, in order."""
    return session.scalars(select(A.c.id).where(A.c.kind == kind.value).order_by(A.c.id)).all()


def _whole() -> Select[Any]:
    # Money columns change behind the identity map: always read them again.
    return select(Account).execution_options(populate_existing=True)
