"""Statements about receipts and jobs that leave the books, and about what is kept of them."""

from collections.abc import Collection, Sequence

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.jobs import JobState
from marketplace.storage.dialects import upsert
from marketplace.storage.queries.jobs import J
from marketplace.storage.queries.receipts import R
from marketplace.storage.queries.settlement import P, epoch_of
from marketplace.storage.tables import EpochRow, PrunedReceipt, PrunedSum

G = PrunedReceipt.__table__  # type: ignore[attr-defined]  # SQLModel makes it
U = PrunedSum.__table__  # type: ignore[attr-defined]


def closed_before(session: Session, before: int) -> Sequence[EpochRow]:
    """Return the epochs that were closed before a time (ms), in order."""
    is_old = (P.c.state == "closed") & (P.c.closed_at < before)
    return session.scalars(select(EpochRow).where(is_old).order_by(P.c.number)).all()


def old_jobs(
    session: Session, epochs: Collection[int], before: int, *, after: bytes, limit: int
) -> Sequence[bytes]:
    """Return up to `limit` jobs by id, after one, that ended before a time (ms) and whose receipts are all
    in these epochs."""
    in_one = func.coalesce(epoch_of(R.c.batch).in_(list(epochs)), False)
    elsewhere = select(R.c.id).where(R.c.job_id == J.c.id, ~in_one)
    statement = (
        select(J.c.id)
        .where(J.c.id > after, J.c.state != JobState.ACCEPTED.value, J.c.finished_at < before)
        .where(~elsewhere.exists())
        .order_by(J.c.id)
        .limit(limit)
    )
    return session.scalars(statement).all()


def drop_jobs(session: Session, jobs: Sequence[bytes]) -> int:
    """Take jobs and their receipts out of the books, but for epochs and sums; return how many receipts."""
    of = R.c.job_id.in_(jobs)
    session.execute(insert(G).from_select(["id", "epoch"], select(R.c.id, epoch_of(R.c.batch)).where(of)))
    charged, kept = func.sum(R.c.charge), func.sum(R.c.charge - R.c.fee)
    for owner, amount in session.execute(select(R.c.payer_id, charged).where(of).group_by(R.c.payer_id)):
        _add(session, "spent", owner, int(amount))
    for owner, amount in session.execute(select(R.c.operator_id, kept).where(of).group_by(R.c.operator_id)):
        _add(session, "earned", owner, int(amount))
    _add(session, "fee", TREASURY_ID, int(session.scalar(select(func.sum(R.c.fee)).where(of)) or 0))
    by_key = select(J.c.key_id, func.sum(J.c.charge)).where(J.c.id.in_(jobs)).group_by(J.c.key_id)
    for owner, amount in session.execute(by_key):
        _add(session, "key", owner, int(amount))
    count = session.execute(delete(R).where(of)).rowcount  # type: ignore[attr-defined]  # a CursorResult
    session.execute(delete(J).where(J.c.id.in_(jobs)))
    return int(count)


def epoch_of_pruned(session: Session, receipt_id: bytes) -> int | None:
    """Return the epoch of a pruned receipt, None if it is none."""
    return session.scalar(select(G.c.epoch).where(G.c.id == receipt_id))


def count(session: Session) -> int:
    """Return how many receipts were pruned, ever."""
    return session.scalar(select(func.count()).select_from(G)) or 0


def sums(session: Session, kind: str) -> dict[str, int]:
    """Return what pruned receipts or jobs added up to, by owner (see PrunedSum)."""
    found = session.execute(select(U.c.owner, U.c.amount).where(U.c.kind == kind)).all()
    return {str(row[0]): int(row[1]) for row in found}


def _add(session: Session, kind: str, owner: str, amount: int) -> None:
    if not amount:
        return
    fresh = upsert(session, U).values(kind=kind, owner=owner, amount=amount)
    more = fresh.on_conflict_do_update(
        index_elements=[U.c.kind, U.c.owner], set_={"amount": U.c.amount + fresh.excluded.amount}
    )
    session.execute(more)
