"""What has to be so after every restart, and what at the end when everything is settled."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.services.audit_books import audit_books
from marketplace.storage.queries import settlement as settlement_queries
from marketplace.storage.queries.accounts import A
from marketplace.storage.queries.entries import E
from marketplace.storage.queries.jobs import J
from marketplace.storage.queries.receipts import R
from scripts.benches.crash.load import Charge

IDS_A_READ = 400


@dataclass(frozen=True)
class Books:
    """What the books say at one moment."""

    problems: tuple[str, ...]
    receipts: int
    charged: int
    closed_epochs: int
    is_settled: bool


def look(session: Session, told: Sequence[Charge], started_at_ms: int) -> Books:
    """Add the books up, and hold them against what clients were told.

    A hold that was taken before `started_at_ms` is one that the process before left behind.
    """
    report = audit_books(session)
    problems = [str(finding) for finding in report.findings]
    problems += _missing(session, told)
    problems += _left_holds(session, started_at_ms)
    closed = session.execute(
        select(settlement_queries.P.c.number).where(settlement_queries.P.c.state == "closed")
    ).all()
    return Books(tuple(problems), report.receipts, report.charged, len(closed), _is_settled(session))


def _missing(session: Session, told: Sequence[Charge]) -> list[str]:
    """Return which acknowledged charges are not there, once, as they were told."""
    problems = []
    for first in range(0, len(told), IDS_A_READ):
        part = told[first : first + IDS_A_READ]
        ids = [receipt for one in part for receipt, _ in one.receipts]
        jobs = [one.job for one in part]
        receipts = {
            row.id: row
            for row in session.execute(select(R.c.id, R.c.charge, R.c.payer_id).where(R.c.id.in_(ids)))
        }
        states = {
            row.id: row
            for row in session.execute(select(J.c.id, J.c.state, J.c.charge).where(J.c.id.in_(jobs)))
        }
        lines: dict[str, list[int]] = {}
        hexes = [job.hex() for job in jobs]
        for reference, amount in session.execute(
            select(E.c.reference, E.c.amount).where(E.c.kind == "charge", E.c.reference.in_(hexes))
        ):
            lines.setdefault(reference, []).append(amount)
        for one in part:
            job = states.get(one.job)
            if job is None or (job.state, job.charge) != ("done", one.charge):
                problems.append(f"job {one.job.hex()}: told ${one.charge} nano, the books have {job}")
            if one.charge and lines.get(one.job.hex()) != [-one.charge]:
                problems.append(f"job {one.job.hex()}: journal has {lines.get(one.job.hex())}")
            for receipt, charge in one.receipts:
                row = receipts.get(receipt)
                if row is None or (row.charge, row.payer_id) != (charge, one.account):
                    problems.append(f"receipt {receipt.hex()}: told {charge} nano, the books have {row}")
    return problems


def _left_holds(session: Session, started_at_ms: int) -> list[str]:
    left = session.execute(
        select(J.c.id, J.c.hold).where(J.c.state == "accepted", J.c.accepted_at < started_at_ms)
    )
    return [f"job {job_id.hex()} of an earlier process still holds {hold} nano" for job_id, hold in left]


def _is_settled(session: Session) -> bool:
    """Return whether every receipt is in a closed epoch, and every account's spending on the chain."""
    if settlement_queries.unfinished(session) is not None:
        return False
    running = session.execute(select(J.c.id).where(J.c.state == "accepted").limit(1)).first()
    last = settlement_queries.last_sealed(session)
    newest = -1 if last is None else last.last_batch
    open_receipt = session.execute(
        select(R.c.id).where((R.c.batch.is_(None)) | (R.c.batch > newest)).limit(1)
    ).first()
    unpaid = session.execute(
        select(A.c.id)
        .where(A.c.kind == "wallet", (A.c.spent != A.c.spent_settled) | (A.c.earned != A.c.earned_settled))
        .limit(1)
    ).first()
    return running is None and open_receipt is None and unpaid is None
