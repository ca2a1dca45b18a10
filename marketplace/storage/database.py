"""The coordinator's database: many readers, and one writer that commits in groups.

    write(work) ─┐           ┌ SAVEPOINT work SAVEPOINT ┐
    write(work) ─┼─▶ queue ─▶│ work  work  work …       │ ─▶ COMMIT (durable) ─▶ callers are told
    write(work) ─┘           └──────────────────────────┘

While one group is being made durable the next one gathers, so a commit costs the same for one write and for
a hundred. A work that raises is undone alone; the others of its group stay. Works are plain functions of a
session, do not commit, and touch nothing else, because a group that loses a deadlock is run again.

A group is run in the writer's thread. But if all of its works are short (`begin_short`) and the database is a
file, its statements are run on the event loop, where no other thread takes the interpreter from them, and
only the COMMIT, which waits for the disk, in the thread. There nothing waits: a group that would have to, or
that fails, is undone and run again in the thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from marketplace.domain.errors import Unavailable
from marketplace.storage.engines import READERS, open_reader, open_writer
from marketplace.storage.failpoints import reach
from marketplace.storage.groups import Failure, SessionBroken, lost_a_race, run_apart, run_together, translate
from marketplace.storage.migrate import upgrade
from marketplace.storage.quick import QuickWriter

T = TypeVar("T")

MAX_GROUP = 512
MAX_SHORT_GROUP = 64
"""A few milliseconds of the event loop at most, if what they touch is in memory."""
LONGEST_PAUSE_SECONDS = 0.05
REST_SECONDS = 10.0
"""A group that kept the event loop for longer has waited for the disk: those of the next while are left to
the thread."""
MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class Underway(Generic[T]):
    """A short write on its way into the books."""

    ran: asyncio.Future[T]
    """What the work returned or raised. Only the disk is waited for, but what was written may still be lost.
    Whatever is written later goes to the disk after it or is lost with it."""
    durable: asyncio.Future[T]
    """The same once it is in the books, or why it is not."""


@dataclass(slots=True)
class _Waiting:
    work: Callable[[Session], Any]
    told: asyncio.Future[Any]
    ran: asyncio.Future[Any] | None
    is_short: bool


class Database:
    """Made with `await Database.open(url)`, and written from one event loop; see the module."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._is_file = writer.dialect.name == "sqlite"
        self._quick: QuickWriter | None = None
        self._rests_until = 0.0
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._is_busy = False
        self._drained: asyncio.Future[None] | None = None
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="books-reader")
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
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
        return await self._queue(work, None, is_short=False)

    async def write_short(self, work: Callable[[Session], T]) -> T:
        """Return what `work` returns, as `write` does, for a work of a few statements that find their rows
        by an index: it may be run on the event loop.
        """
        return await self._queue(work, None, is_short=True)

    def begin_short(self, work: Callable[[Session], T]) -> Underway[T]:
        """Do as `write_short`, and tell also when `work` has run and only the disk is waited for.

        Await `ran` first. Raises Unavailable if the database is closed.
        """
        ran: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return Underway(ran, self._queue(work, ran, is_short=True))

    async def read(self, work: Callable[[Session], T]) -> T:
        """Return what `work` returns, run on a reader's thread in one snapshot; it must not write."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def writes_waiting(self) -> int:
        """Return how many writes are queued or running."""
        return len(self._waiting) + self._running

    async def close(self) -> None:
        """Finish the writes that wait, and close. A second call does nothing."""
        if not self._closed:
            self._closed = True
            try:
                if self._is_busy:
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
            finally:
                self._steps.put(None)
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._thread.join()
        self._close_quick()
        self._readers.shutdown()
        self._writer.dispose()
        self._reader.dispose()

    def _read(self, work: Callable[[Session], T]) -> T:
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            try:
                return work(session)
            except OperationalError as error:
                raise Unavailable(f"The database does not answer: {error}") from error

    # What follows runs on the event loop.

    def _queue(
        self, work: Callable[[Session], T], ran: asyncio.Future[T] | None, *, is_short: bool
    ) -> asyncio.Future[T]:
        if self._closed:
            raise Unavailable("The database is closed.")
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(work, told, ran, is_short))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._begin_group, loop)
        return told

    def _begin_group(self, loop: asyncio.AbstractEventLoop) -> None:
        group, is_for_here = self._gather(self._is_file and loop.time() >= self._rests_until)
        self._running = len(group)
        if not group:
            self._is_busy = False
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)
            return
        outcomes = self._run_here(group, loop) if is_for_here else None
        if outcomes is None:
            self._close_quick()

        def step() -> None:
            told = self._commit(group) if outcomes is None else self._make_durable(outcomes)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._end_group, loop, group, told)

        self._steps.put(step)

    def _gather(self, may_run_here: bool) -> tuple[Sequence[_Waiting], bool]:
        """Return the next group, and whether it is for the event loop: the first few, if all are short."""
        group: list[_Waiting] = []
        while self._waiting and len(group) < (MAX_SHORT_GROUP if may_run_here else MAX_GROUP):
            waiting = self._waiting.popleft()
            if not waiting.told.cancelled():
                group.append(waiting)
                may_run_here = may_run_here and waiting.is_short
        return group, may_run_here

    def _run_here(self, group: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> Sequence[Any] | None:
        """Return the outcomes of a group of short works; None if it has to be run in the thread."""
        began = loop.time()
        try:
            self._quick = self._quick or QuickWriter(self._writer)
            outcomes = self._quick.run([waiting.work for waiting in group])
        except Exception:  # noqa: BLE001 - whatever it is, the thread runs the group again and tells who is concerned
            return None
        finally:
            if loop.time() - began > LONGEST_PAUSE_SECONDS:
                self._rests_until = loop.time() + REST_SECONDS
        reach("books.group_ran")
        for waiting, outcome in zip(group, outcomes, strict=True):
            if waiting.ran is not None:
                _resolve(waiting.ran, outcome)
        return outcomes

    def _close_quick(self) -> None:
        if self._quick is not None:
            self._quick.close()
            self._quick = None

    def _end_group(
        self, loop: asyncio.AbstractEventLoop, group: Sequence[_Waiting], outcomes: Sequence[Any]
    ) -> None:
        """Tell the callers. They may go on, and write again, before the next group is gathered."""
        for waiting, outcome in zip(group, outcomes, strict=True):
            _resolve(waiting.told, outcome)
            if waiting.ran is not None:
                _resolve(waiting.ran, outcome)
                if not waiting.told.cancelled():
                    waiting.told.exception()  # who is told of it by `ran` may leave this one alone
        loop.call_soon(self._begin_group, loop)

    # What follows runs in the writer's thread.

    def _run(self) -> None:
        while (step := self._steps.get()) is not None:
            step()

    def _make_durable(self, outcomes: Sequence[Any]) -> Sequence[Any]:
        try:
            if self._quick is not None:
                self._quick.commit()
        except Exception as error:  # noqa: BLE001 - the writer must outlive a failed group; its callers are told
            self._close_quick()
            return [self._failure(error)] * len(outcomes)
        reach("books.group_committed")
        return outcomes

    def _commit(self, group: Sequence[_Waiting]) -> Sequence[Any]:
        run = run_together
        for tried in range(1, MAX_TRIES + 1):
            try:
                return self._commit_once(group, run)
            except SessionBroken:
                run = run_apart
            except Exception as error:  # noqa: BLE001 - the writer must outlive a failed group; its callers are told
                if tried == MAX_TRIES or not lost_a_race(error):
                    return [self._failure(error)] * len(group)
        return [Failure(Unavailable("The database is too busy; nothing was written."))] * len(group)

    def _commit_once(
        self,
        group: Sequence[_Waiting],
        run: Callable[[Connection, Sequence[Callable[[Session], Any]]], Sequence[Any]],
    ) -> Sequence[Any]:
        with self._writer.connect() as connection, connection.begin():
            outcomes = run(connection, [waiting.work for waiting in group])
            reach("books.group_ran")
        reach("books.group_committed")
        return outcomes

    def _failure(self, error: Exception) -> Failure:
        return Failure(translate(error, self._writer.dialect.loaded_dbapi.Error))


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, Failure):
        future.set_exception(outcome.error)
    else:
        future.set_result(outcome)
