"""Statements about epochs, for those who read them."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.storage.tables import EpochRow

E = EpochRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def find_epoch(session: Session, number: int) -> EpochRow | None:
    """Return an epoch that is being settled or was."""
    return session.get(EpochRow, number)


def latest_epochs(session: Session, limit: int) -> Sequence[EpochRow]:
    """Return the latest epochs, newest first."""
    return session.scalars(select(EpochRow).order_by(E.c.number.desc()).limit(limit)).all()
