"""How a group of works is run in one transaction, and what its failures are: of one work, or of all."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from marketplace.domain.errors import Unavailable
from marketplace.storage.prepared import DRIVER

Work = Callable[[Session], Any]
_OF_THE_MACHINE = frozenset(
    {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL}
)
_LOST_A_RACE = frozenset({"40001", "40P01"})
"""SQL states of a serialization failure and of a deadlock: nothing was done, running again helps."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The outcome of a work that raised."""

    error: Exception


class SessionBroken(Exception):
    """A work ended the session that its group shares: the group must run again, each work in its own."""


def run_together(connection: Connection, works: Sequence[Work]) -> Sequence[Any]:
    """Return the outcomes of `works`, run in one session; a session of its own takes 100 µs a work.

    Raises as `run_each` does.
    """
    session = Session(connection, join_transaction_mode="rollback_only", expire_on_commit=False)
    session.info[DRIVER] = session.connection().connection.driver_connection
    outcomes = run_each(session, works)
    session.commit()
    session.close()
    return outcomes


def run_each(session: Session, works: Sequence[Work]) -> Sequence[Any]:
    """Return the outcomes of `works`, each run in a savepoint.

    Raises SessionBroken for a work that ended the session's transaction, which undoes the group at most, and
    what lost the whole transaction.
    """
    driver: Any = session.info[DRIVER]
    session.connection()
    transaction = session.get_transaction()
    outcomes: list[Any] = []
    for work in works:
        driver.execute("SAVEPOINT work")
        try:
            value = work(session)
            session.flush()
        except Exception as error:  # noqa: BLE001 - one work's failure belongs to its caller, not to the group
            _raise_if_fatal(error)
            value = Failure(error)
        if session.get_transaction() is not transaction or not session.is_active:
            raise SessionBroken
        if session.identity_map or session.new:
            session.expunge_all()
        if isinstance(value, Failure):
            driver.execute("ROLLBACK TO SAVEPOINT work")
        driver.execute("RELEASE SAVEPOINT work")
        outcomes.append(value)
    return outcomes


def run_apart(connection: Connection, works: Sequence[Work]) -> Sequence[Any]:
    """Return the outcomes of `works`, each run in a session and a savepoint of its own."""
    return [_run_alone(connection, work) for work in works]


def _run_alone(connection: Connection, work: Work) -> Any:
    session = Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
    try:
        value = work(session)
        session.commit()
    except Exception as error:  # noqa: BLE001 - one work's failure belongs to its caller, not to the group
        _raise_if_fatal(error)
        session.rollback()
        return Failure(error)
    finally:
        session.close()
    return value


def lost_a_race(error: BaseException) -> bool:
    """Return whether running the same again may help."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _LOST_A_RACE


def translate(error: Exception, driver_error: type[Exception]) -> Exception:
    """Return what the caller may know of a failure that was not its work's own."""
    if isinstance(error, DBAPIError | driver_error):
        return Unavailable(f"The database does not answer: {error}")
    return error


def _raise_if_fatal(error: Exception) -> None:
    """Raise `error` again if the whole transaction is lost with it."""
    if lost_a_race(error) or _is_of_the_machine(error):
        raise error
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        raise error


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether the disk or the memory failed: SQLite may have undone the transaction by itself."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _OF_THE_MACHINE
