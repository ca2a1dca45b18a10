"""Statements about epochs, for those who read them."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.storage.tables import EpochRow

E = EpochRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def find_epoch(session: Session, number: int) -> EpochRow | None:
    """Return an epoch that is being settled or was."""
    return session.get(EpochRow, number)


def epoch_of_batch(session: Session, batch: int) -> EpochRow | None:
    """Return the epoch that has a batch of receipts, None while it is not put together."""
    return session.scalar(select(EpochRow).where(E.c.last_batch >= batch).order_by(E.c.last_batch).limit(1))


def latest_epochs(session: Session, limit: int) -> Sequence[EpochRow]:
    """Return the latest epochs, newest first."""
    return session.scalars(select(EpochRow).order_by(E.c.number.desc()).limit(limit)).all()
