"""Statements about closed epochs and the receipts under their roots."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.storage.tables import EpochRow, ReceiptRow, SettlementRow

R = ReceiptRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it
E = EpochRow.__table__  # type: ignore[attr-defined]
S = SettlementRow.__table__  # type: ignore[attr-defined]


def find_epoch(session: Session, number: int) -> EpochRow | None:
    """Return an epoch that is being settled or was."""
    return session.get(EpochRow, number)


def latest_epochs(session: Session, limit: int) -> Sequence[EpochRow]:
    """Return the latest epochs, newest first."""
    return session.scalars(select(EpochRow).order_by(E.c.number.desc()).limit(limit)).all()


def receipt_ids(session: Session, epoch: int) -> Sequence[bytes]:
    """Return the ids of an epoch's receipts in the order of its tree."""
    return session.scalars(select(R.c.id).where(R.c.epoch == epoch).order_by(R.c.leaf)).all()


def rows_of(session: Session, epoch: int) -> Sequence[SettlementRow]:
    """Return an epoch's rows, charges before payouts, in the order of settlement."""
    statement = select(SettlementRow).where(S.c.epoch == epoch)
    return session.scalars(statement.order_by(S.c.kind, S.c.chunk, S.c.position)).all()
