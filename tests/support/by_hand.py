"""An event loop, a clock and books that a state machine drives by hand: no thread, no waiting, no chance.

Time passes when the machine says so, timer by timer. Books are real ones on SQLite; a write is committed
before it returns, on the event loop. A process ends where a fail point is armed, and all it had with it.
"""

import asyncio
import contextlib
import math
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest import mock

from sqlalchemy.orm import Session

from marketplace.storage import failpoints
from marketplace.storage.database import Database, Underway
from marketplace.storage.prepared import DRIVER
from tests.support.machines import Place

T = TypeVar("T")


class Crash(SystemExit):
    """The end of a process: asyncio lets nothing else run after it."""


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until `pass_time`; what it hands to threads runs at once."""

    def __init__(self) -> None:
        self._now_ms = 0
        self._until_ms = 0
        self.broken: list[dict[str, Any]] = []
        """What went wrong where nobody looked."""
        super().__init__(_Standstill(self._nothing_to_do))
        self.set_exception_handler(_note)

    def time(self) -> float:
        """Return seconds since the loop was made."""
        return self._now_ms / 1000

    @property
    def passed_ms(self) -> int:
        """Milliseconds since the loop was made."""
        return self._now_ms

    def settle(self) -> None:
        """Run until nothing is left to do at this time."""
        self.run_forever()

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass, stopping at every timer on the way."""
        self._until_ms = self._now_ms + milliseconds
        self.run_forever()

    def do(self, doing: Coroutine[Any, Any, T]) -> T:
        """Return what `doing` returns; it must not wait for time to pass."""
        task = self.create_task(doing)
        self.settle()
        assert task.done(), f"{doing} waits"
        return task.result()

    def end(self) -> None:
        """Cancel whatever runs; who waited for a task that crashed may hear of it again."""
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Crash):
                self.settle()

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        """Run it here and now."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to who asked for the work
            done.set_exception(error)
        return done

    def _nothing_to_do(self, seconds: float | None) -> None:
        left = self._until_ms - self._now_ms
        if seconds is None or seconds * 1000 > left:
            self._now_ms += max(0, left)
            self.stop()
        else:
            self._now_ms += max(1, math.ceil(seconds * 1000))


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, HandLoop)
    if not isinstance(context.get("exception"), Crash):
        loop.broken.append(context)


class _Standstill(selectors.SelectSelector):
    """Waits for nothing; tells how long there would be to wait."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._idle(timeout)
        return []


class HandClock:
    """The market's clock, which goes with the loop's time."""

    def __init__(self, loop: HandLoop, start_ms: int) -> None:
        self._loop = loop
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Return the present in milliseconds."""
        return self._start_ms + self._loop.passed_ms


class HandBooks(Database):
    """The books without their threads. After `die` nothing is written or read any more."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._writer, self._reader = place.writer, place.reader
        self._dead = False
        self.pauses: list[int] = []
        """How often to let others run before each of the next reads and writes."""

    async def write(self, work: Callable[[Session], T]) -> T:
        """Commit `work` alone."""
        await self._turn()
        with self._writer.connect() as connection, connection.begin():
            session = Session(connection, join_transaction_mode="rollback_only", expire_on_commit=False)
            session.info[DRIVER] = session.connection().connection.driver_connection
            value = work(session)
            session.flush()
            session.expunge_all()
            failpoints.reach("books.group_ran")
        failpoints.reach("books.group_committed")
        return value

    async def write_short(self, work: Callable[[Session], T]) -> T:
        """Commit `work` alone."""
        return await self.write(work)

    def begin_short(self, work: Callable[[Session], T]) -> Underway[T]:
        """Commit `work` alone; it has run when it is durable."""
        loop = asyncio.get_running_loop()
        durable, ran = loop.create_task(self.write(work)), loop.create_future()

        def tell(done: asyncio.Task[T]) -> None:
            if done.cancelled():
                ran.cancel()
            elif error := done.exception():
                ran.set_exception(error)
            else:
                ran.set_result(done.result())

        durable.add_done_callback(tell)
        return Underway(ran, durable)

    async def read(self, work: Callable[[Session], T]) -> T:
        """Read in a snapshot of its own."""
        await self._turn()
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            return work(session)

    def query(self, statement: str) -> list[Any]:
        """Return the rows of a statement, for a machine to look at."""
        with self._reader.connect() as connection:
            driver: Any = connection.connection.driver_connection
            return list(driver.execute(statement))

    def writes_waiting(self) -> int:
        """None ever wait."""
        return 0

    def die(self) -> None:
        """End as the process that has them ends; the file is as it was committed last."""
        self._dead = True
        self._place.close()

    async def close(self) -> None:
        """Close the file."""
        self.die()

    async def _turn(self) -> None:
        if self._dead:
            await asyncio.get_running_loop().create_future()
        for _ in range(self.pauses.pop() if self.pauses else 0):
            await asyncio.sleep(0)


def dies_at(point: str, doing: Callable[[], object]) -> bool:
    """Do it; return whether the process would have been killed at a fail point on the way.

    Other threads of this process may run coordinators of other tests: they come by, and live.
    """
    mine = threading.get_ident()

    def kill(_pid: int, _signal: int) -> None:
        if threading.get_ident() == mine:
            raise Crash(point)
        failpoints.arm(point)

    failpoints.arm(point)
    with mock.patch.object(os, "kill", kill):
        try:
            doing()
        except Crash:
            return True
        finally:
            failpoints.arm("")
    return False
