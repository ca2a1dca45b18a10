"""The end of a market's contracts: what is still open in their books, and what goes on in the next ones.

Wallets' money needs nobody: it leaves the old Ledger through the contract, and goes into the new one as a
deposit. Credit is the operator's promise, so it moves with the accounts: given anew in the new books, out of
the operator's deposit there, and taken back in the old ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import Conflict
from marketplace.services import ledger
from marketplace.storage.dialects import insert_or_ignore
from marketplace.storage.queries import accounts, settlement
from marketplace.storage.queries.accounts import A
from marketplace.storage.queries.jobs import RUNNING, J
from marketplace.storage.queries.keys import K
from marketplace.storage.queries.nodes import N
from marketplace.storage.queries.receipts import R
from marketplace.storage.queries.settlement import P
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is open in the books; amounts in nano-dollars.

    `unconsented` is what wallets used and neither authorized nor signed for: no row can carry it.
    """

    jobs: int
    receipts: int
    epoch: int | None
    owed: NanoUsd
    unconsented: NanoUsd
    credit: NanoUsd

    @property
    def is_wound_down(self) -> bool:
        """Whether every job has ended, every receipt is settled and every operator is paid on the chain."""
        return self.epoch is None and not (self.jobs or self.receipts or self.owed)


def remaining(session: Session) -> Remaining:
    """Return what keeps the contracts of these books from being left."""
    # Epochs are closed in their order.
    settled = select(func.coalesce(func.max(P.c.last_batch), -1)).where(P.c.state == "closed")
    is_open = or_(R.c.matured.is_(False), R.c.batch > settled.scalar_subquery())
    unfinished = settlement.unfinished(session)
    is_wallet = A.c.kind == AccountKind.WALLET.value
    return Remaining(
        jobs=_one(session, select(func.count()).select_from(J).where(RUNNING)),
        receipts=_one(session, select(func.count()).select_from(R).where(is_open)),
        epoch=None if unfinished is None else unfinished.number,
        owed=NanoUsd(settlement.outstanding(session)),
        unconsented=NanoUsd(_one(session, _sum(A.c.spent - A.c.spent_settled).where(is_wallet))),
        credit=NanoUsd(_one(session, _sum(A.c.balance).where(A.c.kind == AccountKind.EMAIL.value))),
    )


@dataclass(frozen=True, slots=True)
class Carried:
    """An account as it goes on in other books: who it is, its usable keys, and the credit it has left."""

    account: dict[str, Any]
    keys: tuple[dict[str, Any], ...]
    credit: NanoUsd

    @property
    def id(self) -> str:
        """The account's id, the same in both books."""
        return str(self.account["id"])


def leaving(session: Session) -> list[Carried]:
    """Return the accounts that go on elsewhere, all but the treasury."""
    kinds = (AccountKind.WALLET.value, AccountKind.EMAIL.value)
    columns = (A.c.id, A.c.kind, A.c.address, A.c.email, A.c.email_verified, A.c.status, A.c.created_at)
    found = session.execute(select(*columns, A.c.balance).where(A.c.kind.in_(kinds)).order_by(A.c.id))
    carried = []
    for row in found.mappings().all():
        account = {name: value for name, value in row.items() if name != "balance"}
        is_credit = row["kind"] == AccountKind.EMAIL
        credit = NanoUsd(row["balance"] if is_credit else 0)
        carried.append(Carried(account, tuple(_keys_of(session, row["id"])), credit))
    return carried


def receive(session: Session, one: Carried, now: int) -> bool:
    """Open an account that comes from other books, once; return whether it is open here.

    It is not if its e-mail address is another account's. Raises TreasuryShort if the operator's deposit does
    not cover its credit.
    """
    session.execute(insert_or_ignore(session, A).values(**one.account))
    known = accounts.find(session, one.id)
    if known is None:
        return False
    for key in one.keys:
        session.execute(insert_or_ignore(session, K).values(**key, changed_at=now))
    if one.credit > 0:
        try:
            ledger.grant_credit(session, one.id, one.credit, f"carried over {one.id}", now)
        except Conflict:
            # It came with an earlier try that was cut off before the old books knew.
            return True
    return True


def release(session: Session, one: Carried, now: int) -> None:
    """Take back in the old books the credit that an account has in the new ones."""
    if one.credit > 0:
        ledger.revoke_credit(session, one.id, one.credit, "carried over", now)


def suspended_nodes(session: Session) -> Sequence[dict[str, Any]]:
    """Return the nodes that get no jobs, with all that is known of them."""
    return [dict(row) for row in session.execute(select(N).where(N.c.suspended.is_(True))).mappings()]


def keep_suspended(session: Session, nodes: Sequence[dict[str, Any]]) -> None:
    """Suspend the same nodes in these books."""
    for node in nodes:
        session.execute(insert_or_ignore(session, N).values(**node))


def _keys_of(session: Session, account_id: str) -> list[dict[str, Any]]:
    usable = select(K).where(K.c.account_id == account_id, K.c.revoked_at.is_(None))
    left = []
    for row in session.execute(usable).mappings():
        key = {name: value for name, value in row.items() if name not in ("changed_at", "spent", "held")}
        # What was spent stays in the old books, with the jobs it was spent on.
        cap = None if key["cap"] is None else max(0, key["cap"] - row["spent"])
        left.append(key | {"cap": cap, "spent": 0, "held": 0})
    return left


def _sum(column: Any) -> Any:
    return select(func.coalesce(func.sum(column), 0))


def _one(session: Session, statement: Any) -> int:
    return int(session.scalar(statement) or 0)
