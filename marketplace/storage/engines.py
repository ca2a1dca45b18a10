"""How connections are opened: one that writes, some that read, the same on SQLite and PostgreSQL."""

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

READERS = 4
BUSY_TIMEOUT_MS = 10_000
WRITER_CACHE_KIB = 32_768
CHECKPOINT_PAGES = 8_000
"""Of 4 KiB in the write-ahead log, which is copied back when it has so many."""
AS_SHELL = "as_shell"
"""The option of a connection whose owner begins and commits by itself."""


def open_writer(url: str) -> Engine:
    """Return an engine with one connection, whose transactions take the write lock when they begin."""
    return _open(url, size=1, begin="BEGIN IMMEDIATE", read_only=False)


def open_reader(url: str) -> Engine:
    """Return an engine for snapshots that cannot write."""
    return _open(url, size=READERS, begin="BEGIN", read_only=True)


def _open(url: str, *, size: int, begin: str, read_only: bool) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file: the writer and the readers have connections of their own")
        return _sqlite(url, size=size, begin=begin, read_only=read_only)
    options = {"options": "-c default_transaction_read_only=on"} if read_only else {}
    isolation = "REPEATABLE READ" if read_only else "READ COMMITTED"
    return create_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_pre_ping=True,
        isolation_level=isolation,
        hide_parameters=True,
        connect_args=options,
    )


def _sqlite(url: str, *, size: int, begin: str, read_only: bool) -> Engine:
    options = {"timeout": BUSY_TIMEOUT_MS / 1000, "cached_statements": 512}
    engine = create_engine(url, pool_size=size, max_overflow=0, connect_args=options, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin or commit on its own
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not read_only:
            # Ids are random, so each job touches pages of its own: keep many, and copy them back rarely.
            connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        if not connection.get_execution_options().get(AS_SHELL):
            connection.exec_driver_sql(begin)

    return engine
