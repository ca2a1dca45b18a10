"""Statements about what is remembered of nodes."""

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from marketplace.storage.tables import NodeRow

N = NodeRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it


def known(session: Session) -> Sequence[NodeRow]:
    """Return every node that was ever connected, by operator."""
    order = (N.c.operator, N.c.address)
    return session.scalars(select(NodeRow).order_by(*order).execution_options(populate_existing=True)).all()


def suspended(session: Session) -> frozenset[str]:
    """Return the addresses of the nodes that get no jobs."""
    return frozenset(session.scalars(select(N.c.address).where(N.c.suspended.is_(True))))


def is_operator_suspended(session: Session, operator: str) -> bool:
    """Return whether an operator's nodes are suspended, all that it has shown."""
    found = session.scalars(select(N.c.suspended).where(N.c.operator == operator)).all()
    return bool(found) and all(found)


def set_suspended(session: Session, address: str, suspended: bool) -> Sequence[str]:
    """Suspend or restore a node, or all that an operator has shown so far; return their addresses."""
    of = or_(N.c.address == address, N.c.operator == address)
    session.execute(update(N).where(of).values(suspended=suspended))
    return session.scalars(select(N.c.address).where(of).order_by(N.c.address)).all()
