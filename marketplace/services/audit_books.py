"""Whether the books add up: every column of money against the journal, the jobs and the receipts.

balance   = Σ deposits, grants, charges, withdrawals, advances in the journal
spent     = Σ charges in the journal                 = Σ receipts that the account pays
earned    = Σ earnings and fees in the journal       = Σ receipts that it made (matured and not)
            (receipts that were pruned count with the sums that are kept of them)
held      = Σ holds of accepted jobs                 (the same for each key)
granted   = Σ promises in the journal                ≤ the treasury's balance
Σ charges = Σ earnings + Σ fees, to the nano-dollar
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import (
    BALANCE_KINDS,
    EARNING_KINDS,
    PROMISE_KINDS,
    SPENDING_KINDS,
    TREASURY_ID,
    AccountKind,
    EntryKind,
)
from marketplace.domain.jobs import JobState
from marketplace.storage.queries import pruning
from marketplace.storage.queries.accounts import A
from marketplace.storage.queries.entries import E
from marketplace.storage.queries.jobs import RUNNING, J
from marketplace.storage.queries.keys import K
from marketplace.storage.queries.receipts import R
from tallystick.protocol.money import NanoUsd, format_usd

Sums = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not add up: whose it is, what it should be and what it is.

    In nano-dollars, or in words (`detail`) where it is no amount.
    """

    subject: str
    rule: str
    expected: int = 0
    found: int = 0
    detail: str = ""

    def __str__(self) -> str:
        if self.detail:
            return f"{self.subject}: {self.rule}: {self.detail}"
        expected, found = format_usd(NanoUsd(self.expected)), format_usd(NanoUsd(self.found))
        return f"{self.subject}: {self.rule}: expected ${expected}, found ${found}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what does not add up; nothing, if the books are right."""

    accounts: int
    receipts: int
    charged: NanoUsd
    findings: tuple[Finding, ...]


def audit_books(session: Session) -> Report:
    """Add up the books in `session`'s snapshot; the same session must not write."""
    findings = [
        *_accounts_against_journal(session),
        *_accounts_against_receipts(session),
        *_accounts_against_holds(session),
        *_kinds(session),
        *_orders(session),
        *_keys(session),
        *_jobs(session),
        *_treasury(session),
        *_conservation(session),
    ]
    receipts, charged = session.execute(
        select(func.count(), func.coalesce(func.sum(R.c.charge), 0)).select_from(R)
    ).one()
    accounts = session.scalar(select(func.count()).select_from(A)) or 0
    receipts += pruning.count(session)
    charged += sum(pruning.sums(session, "spent").values())
    return Report(accounts, receipts, NanoUsd(int(charged)), tuple(findings))


def _accounts_against_journal(session: Session) -> Iterator[Finding]:
    given = {
        EntryKind.DEPOSIT,
        EntryKind.DEPOSIT_UNDONE,
        EntryKind.GRANT,
        EntryKind.GRANT_REVOKED,
    }
    taken = {EntryKind.WITHDRAWAL, EntryKind.WITHDRAWAL_UNDONE}
    yield from _compare(session, A.c.balance, _journal(session, BALANCE_KINDS), "balance is its journal's")
    yield from _compare(session, -A.c.spent, _journal(session, SPENDING_KINDS), "spent is its journal's")
    earned = A.c.earned + A.c.earned_pending
    yield from _compare(session, earned, _journal(session, EARNING_KINDS), "earned is its journal's")
    yield from _compare(session, -A.c.granted, _journal(session, PROMISE_KINDS), "granted is its journal's")
    yield from _compare(session, A.c.deposited, _journal(session, given), "deposited is its journal's")
    yield from _compare(session, -A.c.withdrawn, _journal(session, taken), "withdrawn is its journal's")


def _accounts_against_receipts(session: Session) -> Iterator[Finding]:
    matured, pending = R.c.matured.is_(True), R.c.matured.is_(False)
    pruned = pruning.sums(session, "spent")
    spent = _added(_sums(session, R.c.payer_id, R.c.charge), pruned)
    yield from _compare(session, A.c.spent, spent, "spent is what its receipts charge")
    spent_matured = _added(_sums(session, R.c.payer_id, R.c.charge, matured), pruned)
    yield from _compare(
        session, A.c.spent_matured, spent_matured, "matured spending is its matured receipts'"
    )
    earned = _added(
        _with_fees(session, matured), pruning.sums(session, "earned"), pruning.sums(session, "fee")
    )
    yield from _compare(session, A.c.earned, earned, "earned is its matured receipts'")
    yield from _compare(
        session, A.c.earned_pending, _with_fees(session, pending), "pending earnings are its other receipts'"
    )


def _accounts_against_holds(session: Session) -> Iterator[Finding]:
    held = _sums(session, J.c.account_id, J.c.hold, RUNNING)
    yield from _compare(session, A.c.held, held, "held is its accepted jobs' holds")


def _kinds(session: Session) -> Iterator[Finding]:
    """An account on credit has no address; every other one has."""
    is_odd = (A.c.kind == AccountKind.EMAIL.value) == A.c.address.is_not(None)
    for account_id, kind in session.execute(select(A.c.id, A.c.kind).where(is_odd)):
        yield Finding(account_id, "who has an address has no credit", detail=f"it is of the kind {kind!r}")


def _orders(session: Session) -> Iterator[Finding]:
    """What may never exceed what."""
    pairs = [
        ("settled earnings are at most the matured", A.c.earned_settled, A.c.earned),
        ("acknowledged earnings are at most the matured", A.c.acknowledged, A.c.earned),
        (
            "granted credit is at most the treasury's deposit",
            A.c.granted,
            case((A.c.granted > 0, A.c.balance), else_=0),
        ),
        (
            "settled spending is at most the matured",
            case((A.c.id == TREASURY_ID, 0), else_=A.c.spent_settled),
            A.c.spent_matured,
        ),
    ]
    for rule, less, more in pairs:
        for account_id, small, large in session.execute(select(A.c.id, less, more).where(less > more)):
            yield Finding(account_id, rule, large, small)


def _keys(session: Session) -> Iterator[Finding]:
    held = _sums(session, J.c.key_id, J.c.hold, RUNNING)
    spent = _added(_sums(session, J.c.key_id, J.c.charge), pruning.sums(session, "key"))
    for key_id, key_held, key_spent in session.execute(select(K.c.id, K.c.held, K.c.spent)):
        if key_held != held.get(key_id, 0):
            yield Finding(key_id, "the key's holds are its jobs'", held.get(key_id, 0), key_held)
        if key_spent != spent.get(key_id, 0):
            yield Finding(key_id, "the key's spending is its jobs'", spent.get(key_id, 0), key_spent)


def _jobs(session: Session) -> Iterator[Finding]:
    """A job charges what its receipts charge its consumer, at most its hold, and nothing if it failed."""
    total = func.coalesce(func.sum(R.c.charge), 0)
    own = (R.c.job_id == J.c.id) & (R.c.payer_id == J.c.account_id)
    charged = select(total).where(own).scalar_subquery()
    for job_id, charge, receipts in session.execute(
        select(J.c.id, J.c.charge, charged).where(J.c.charge != charged)
    ):
        yield Finding(f"job {job_id.hex()}", "the charge is its receipts'", int(receipts), charge)
    beyond = select(J.c.id, J.c.charge, J.c.hold).where(J.c.charge > J.c.hold)
    for job_id, charge, hold in session.execute(beyond):
        yield Finding(f"job {job_id.hex()}", "the charge is at most the hold", hold, charge)

    unpaid = select(J.c.id, J.c.charge).where(J.c.state != JobState.DONE.value, J.c.charge != 0)
    for job_id, charge in session.execute(unpaid):
        yield Finding(f"job {job_id.hex()}", "only an answer that is done is charged", 0, charge)


def _treasury(session: Session) -> Iterator[Finding]:
    """What rows charged the treasury is what the journal says that it advanced."""
    advanced = _journal(session, {EntryKind.ADVANCE}).get(TREASURY_ID, 0)
    settled = session.scalar(select(A.c.spent_settled).where(A.c.id == TREASURY_ID)) or 0
    if settled != -advanced:
        yield Finding(TREASURY_ID, "settled spending is its journal's advances", -advanced, settled)


def _conservation(session: Session) -> Iterator[Finding]:
    """What was charged, in the journal, is what was earned and kept as a fee."""
    kinds = [kind.value for kind in SPENDING_KINDS | EARNING_KINDS]
    rest = session.scalar(select(func.sum(E.c.amount)).where(E.c.kind.in_(kinds))) or 0
    if rest:
        yield Finding("the journal", "charges are earnings and fees", 0, int(rest))


def _compare(session: Session, column: Any, expected: Sums, rule: str) -> Iterator[Finding]:
    for account_id, found in session.execute(select(A.c.id, column).order_by(A.c.id)):
        if found != expected.get(account_id, 0):
            yield Finding(account_id, rule, expected.get(account_id, 0), found)


def _journal(session: Session, kinds: set[EntryKind] | frozenset[EntryKind]) -> Sums:
    return _sums(session, E.c.account_id, E.c.amount, E.c.kind.in_([kind.value for kind in kinds]))


def _with_fees(session: Session, which: Any) -> Sums:
    earned = dict(_sums(session, R.c.operator_id, R.c.charge - R.c.fee, which))
    fees = session.scalar(select(func.coalesce(func.sum(R.c.fee), 0)).where(which)) or 0
    earned[TREASURY_ID] = earned.get(TREASURY_ID, 0) + int(fees)
    return earned


def _sums(session: Session, owner: Any, amount: Any, *conditions: Any) -> Sums:
    statement = select(owner, func.sum(amount)).where(*conditions).group_by(owner)
    rows: Sequence[Any] = session.execute(statement).all()
    return {account_id: int(total or 0) for account_id, total in rows}


def _added(*parts: Sums) -> Sums:
    owners = {owner for part in parts for owner in part}
    return {owner: sum(part.get(owner, 0) for part in parts) for owner in owners}
