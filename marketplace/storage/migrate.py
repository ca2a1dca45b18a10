"""Brings a database's schema up to date."""

from sqlalchemy import Engine
from sqlmodel import SQLModel

from marketplace.storage import tables as tables


def upgrade(engine: Engine) -> None:
    """Create what is missing."""
    SQLModel.metadata.create_all(engine)
