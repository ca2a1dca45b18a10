"""The few places where SQLite and PostgreSQL spell things differently."""

from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

Insert = postgresql.Insert | sqlite.Insert


def upsert(session: Session, table: Table) -> Any:
    """Return an insert into `table` that knows `on_conflict_do_…`."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def insert_or_ignore(session: Session, table: Table) -> Any:
    """Return an insert that does nothing where a row with the same key is there already."""
    # Without this PostgreSQL's insert, which returns the key, does not tell whether it did anything.
    return upsert(session, table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
