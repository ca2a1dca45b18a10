"""Short works, run where their callers are: on the event loop.

The session and its connection stay open from group to group, since opening them takes longer than a work.
SQLAlchemy's transaction on them is a shell that does not end: BEGIN and COMMIT go past it to SQLite. While
they are open, the writer's engine has no connection for others.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from marketplace.storage.engines import AS_SHELL, BUSY_TIMEOUT_MS
from marketplace.storage.groups import Work, run_each
from marketplace.storage.prepared import DRIVER


class QuickWriter:
    """Runs groups one after the other, and waits for nothing but the disk, in `commit`."""

    def __init__(self, writer: Engine) -> None:
        self._connection = writer.connect().execution_options(**{AS_SHELL: True})
        self._connection.begin()
        driver: Any = self._connection.connection.driver_connection
        self._driver = driver
        self._driver.execute("PRAGMA busy_timeout = 0")
        self._session = Session(
            self._connection, join_transaction_mode="rollback_only", expire_on_commit=False
        )
        self._session.info[DRIVER] = self._driver

    def run(self, works: Sequence[Work]) -> Sequence[Any]:
        """Return the outcomes of `works`, which `commit` makes durable.

        Raises DatabaseError at once if another process writes, and as `run_each` does; close it then.
        """
        self._driver.execute("BEGIN IMMEDIATE")
        return run_each(self._session, works)

    def commit(self) -> None:
        """Make the group durable; in a thread, since it waits for the disk. Close it after an error."""
        self._driver.execute("COMMIT")

    def close(self) -> None:
        """Undo what is not committed, and give the connection back; a broken one is thrown away."""
        try:
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
            self._driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        except sqlite3.Error:
            self._connection.invalidate()
        self._session.close()
        self._connection.close()
