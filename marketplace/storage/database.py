"""The coordinator's database: many readers, and one writer that commits in groups.

    write(work) ─┐                      ┌ SAVEPOINT work SAVEPOINT ┐
    write(work) ─┼─▶ queue ─▶ writer ─▶ │ work  work  work …       │ ─▶ COMMIT (durable) ─▶ callers are told
    write(work) ─┘                      └──────────────────────────┘

While one group is being made durable the next one gathers, so a commit costs the same for one write and for
a hundred. A work that raises is undone alone; the others of its group stay. Works are plain functions of a
session, do not commit, and touch nothing else, because a group that loses a deadlock is run again.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from marketplace.domain.errors import Unavailable
from marketplace.storage.engines import READERS, open_reader, open_writer
from marketplace.storage.failpoints import reach
from marketplace.storage.migrate import upgrade
from marketplace.storage.prepared import DRIVER

T = TypeVar("T")

MAX_GROUP = 512
MAX_TRIES = 5
_OF_THE_MACHINE = frozenset(
    {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL}
)
_LOST_A_RACE = frozenset({"40001", "40P01"})
"""SQL states of a serialization failure and of a deadlock: nothing was done, running again helps."""


@dataclass(slots=True)
class _Waiting:
    work: Callable[[Session], Any]
    told: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Database:
    """Made with `await Database.open(url)`; see the module."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._running = 0
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="books-reader")
        self._thread = threading.Thread(target=self._run, name="books-writer", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Return the database at `url`, its schema brought up to date.

        `sqlite+pysqlite:///path` is opened in WAL mode with full synchronisation; `postgresql+psycopg://…`
        works the same. Raises Unavailable if it cannot be opened.
        """
        return await asyncio.to_thread(cls._open, url)

    @classmethod
    def _open(cls, url: str) -> "Database":
        writer = open_writer(url)
        try:
            upgrade(writer)
        except Unavailable:
            writer.dispose()
            raise
        except SQLAlchemyError as error:
            writer.dispose()
            raise Unavailable(f"The database cannot be opened: {error}") from error
        return cls(writer, open_reader(url))

    @property
    def url(self) -> str:
        """Where it is, as `open` takes it; with the password, so not for logs."""
        return self._reader.url.render_as_string(hide_password=False)

    async def write(self, work: Callable[[Session], T]) -> T:
        """Return what `work` returns, once what it wrote is durable.

        An exception of `work` undoes that work alone and is raised here. A caller that is cancelled before
        its work began takes it back; after that the work is done in full, and the caller does not learn of
        it. Raises Unavailable if the database does not answer.
        """
        if self._closed:
            raise Unavailable("The database is closed.")
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Waiting(work, told, loop))
        return await told

    async def read(self, work: Callable[[Session], T]) -> T:
        """Return what `work` returns, run on a reader's thread in one snapshot; it must not write."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def writes_waiting(self) -> int:
        """Return how many writes are queued or running."""
        return self._queue.qsize() + self._running

    async def close(self) -> None:
        """Finish the writes that wait, and close. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._thread.join()
        self._readers.shutdown()
        self._writer.dispose()
        self._reader.dispose()

    def _read(self, work: Callable[[Session], T]) -> T:
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            try:
                return work(session)
            except OperationalError as error:
                raise Unavailable(f"The database does not answer: {error}") from error

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            is_last = self._gather(group)
            group = [waiting for waiting in group if not waiting.told.cancelled()]
            self._running = len(group)
            _tell(group, self._commit(group))
            self._running = 0
            if is_last:
                return

    def _gather(self, group: list[_Waiting]) -> bool:
        """Add what waits to `group`; return whether the database is closing."""
        while len(group) < MAX_GROUP:
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                return False
            if waiting is None:
                return True
            group.append(waiting)
        return False

    def _commit(self, group: Sequence[_Waiting]) -> Sequence[Any]:
        run = _run_group
        for tried in range(1, MAX_TRIES + 1):
            try:
                return self._commit_once(group, run)
            except _SessionBroken:
                run = _run_apart
            except Exception as error:  # noqa: BLE001 - the writer must outlive a failed group; its callers are told
                if tried == MAX_TRIES or not _lost_a_race(error):
                    return [_Failure(_translate(error, self._writer.dialect.loaded_dbapi.Error))] * len(group)
        return [_Failure(Unavailable("The database is too busy; nothing was written."))] * len(group)

    def _commit_once(self, group: Sequence[_Waiting], run: "_Runner") -> Sequence[Any]:
        if not group:
            return ()
        with self._writer.connect() as connection, connection.begin():
            outcomes = run(connection, [waiting.work for waiting in group])
            reach("books.group_ran")
        reach("books.group_committed")
        return outcomes


_Runner = Callable[[Connection, Sequence[Callable[[Session], Any]]], Sequence[Any]]


class _SessionBroken(Exception):
    """A work ended the session that its group shares: the group must run again, each work in its own."""


def _run_group(connection: Connection, works: Sequence[Callable[[Session], Any]]) -> Sequence[Any]:
    """Run `works` in one session, each in a savepoint: 3 µs a work; a session of its own takes 100.

    A work that ends the session's transaction undoes the group at most, and the group runs again.
    """
    session = Session(connection, join_transaction_mode="rollback_only", expire_on_commit=False)
    driver: Any = session.connection().connection.driver_connection
    session.info[DRIVER] = driver
    transaction = session.get_transaction()
    outcomes: list[Any] = []
    for work in works:
        driver.execute("SAVEPOINT work")
        try:
            value = work(session)
            session.flush()
        except Exception as error:  # noqa: BLE001 - one work's failure belongs to its caller, not to the group
            _raise_if_fatal(error)
            value = _Failure(error)
        if session.get_transaction() is not transaction or not session.is_active:
            raise _SessionBroken
        session.expunge_all()
        if isinstance(value, _Failure):
            driver.execute("ROLLBACK TO SAVEPOINT work")
        driver.execute("RELEASE SAVEPOINT work")
        outcomes.append(value)
    session.commit()
    session.close()
    return outcomes


def _run_apart(connection: Connection, works: Sequence[Callable[[Session], Any]]) -> Sequence[Any]:
    """Run `works` each in a session and a savepoint of its own."""
    return [_run_alone(connection, work) for work in works]


def _run_alone(connection: Connection, work: Callable[[Session], Any]) -> Any:
    session = Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
    try:
        value = work(session)
        session.commit()
    except Exception as error:  # noqa: BLE001 - one work's failure belongs to its caller, not to the group
        _raise_if_fatal(error)
        session.rollback()
        return _Failure(error)
    finally:
        session.close()
    return value


def _raise_if_fatal(error: Exception) -> None:
    """Raise `error` again if the whole transaction is lost with it."""
    if _lost_a_race(error) or _is_of_the_machine(error):
        raise error
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        raise error


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether the disk or the memory failed: SQLite may have undone the transaction by itself."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _OF_THE_MACHINE


def _tell(group: Sequence[_Waiting], outcomes: Sequence[Any]) -> None:
    """Hand every caller its outcome, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for waiting, outcome in zip(group, outcomes, strict=True):
        by_loop.setdefault(waiting.loop, []).append((waiting.told, outcome))
    for loop, told in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_deliver, told)


def _deliver(told: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in told:
        if future.done():
            continue
        if isinstance(outcome, _Failure):
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome)


def _lost_a_race(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _LOST_A_RACE


def _translate(error: Exception, driver_error: type[Exception]) -> Exception:
    """Return what the caller may know of a failure that was not its work's own."""
    if isinstance(error, DBAPIError | driver_error):
        return Unavailable(f"The database does not answer: {error}")
    return error
