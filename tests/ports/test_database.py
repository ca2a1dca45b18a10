"""What every database does for the books: grouped, durable, isolated writes and reads of one snapshot."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from marketplace.domain.errors import InsufficientBalance, Unavailable
from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.storage.database import LONGEST_PAUSE_SECONDS, Database
from marketplace.storage.queries import accounts
from marketplace.storage.tables import Entry, Lease
from tallystick.protocol.money import NanoUsd
from tests.support.books import ALICE, NOW, TREASURY, hold, make_job, taken, wallet


def add(name: str) -> Callable[[Session], str]:
    def work(session: Session) -> str:
        session.add(Lease(name=name, holder="", until=0))
        return name

    return work


async def names(database: Database) -> list[str]:
    def work(session: Session) -> list[str]:
        return sorted(session.scalars(select(Lease.name)))  # type: ignore[call-overload]

    return await database.read(work)


class Gate:
    """A work that keeps the writer busy until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, session: Session) -> None:
        self.entered.set()
        assert self.opened.wait(20)


async def shut_gate(database: Database) -> tuple[Gate, "asyncio.Task[None]"]:
    gate = Gate()
    task = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 20)
    return gate, task


async def test_a_write_returns_what_its_work_returned_and_is_there_for_readers(database: Database) -> None:
    assert await database.write(add("a")) == "a"
    assert await names(database) == ["a"]


async def test_a_write_is_there_after_closing_and_opening_again(books_url: str) -> None:
    first = await Database.open(books_url)
    await first.write(add("a"))
    await first.close()
    second = await Database.open(books_url)
    assert await names(second) == ["a"]
    await second.close()


@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("how", ["raise", "core", "flush", "caught", "commit"])
async def test_a_work_that_fails_is_undone_alone(database: Database, how: str, is_short: bool) -> None:
    def fail(session: Session) -> None:
        session.add(Lease(name="half", holder="", until=0))
        session.flush()
        if how == "raise":
            raise RuntimeError("no")
        if how == "core":
            session.execute(text("INSERT INTO lease (name, holder, until) VALUES ('half', '', 0)"))
        if how == "commit":
            session.commit()
            raise RuntimeError("no")
        session.expunge_all()
        session.add(Lease(name="half", holder="", until=0))
        if how == "caught":
            with pytest.raises(IntegrityError):
                session.flush()
            raise RuntimeError("no")

    gate, waiting = await shut_gate(database)
    works: list[Callable[[Session], object]] = [add("a"), fail, add("b")]
    write = database.write_short if is_short else database.write
    group = [asyncio.create_task(write(work)) for work in works]
    await asyncio.sleep(0.05)
    gate.opened.set()
    await waiting
    outcomes = await asyncio.gather(*group, return_exceptions=True)
    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert isinstance(outcomes[1], RuntimeError | IntegrityError)
    # A work that commits on its own, against the rules, keeps what it committed; the others are safe.
    assert await names(database) == (["a", "b", "half"] if how == "commit" else ["a", "b"])


async def test_waiting_writes_are_counted_and_committed_together(database: Database) -> None:
    gate, waiting = await shut_gate(database)
    group = [asyncio.create_task(database.write(add(f"{number:03}"))) for number in range(100)]
    await asyncio.sleep(0.05)
    assert database.writes_waiting() == 101
    gate.opened.set()
    await asyncio.gather(waiting, *group)
    assert len(await names(database)) == 100
    await asyncio.sleep(0.05)
    assert database.writes_waiting() == 0


async def test_a_short_write_has_run_before_it_is_durable_and_is_there_for_readers_then(
    database: Database,
) -> None:
    underway = database.begin_short(add("a"))
    assert await underway.ran == "a"
    assert await underway.durable == "a"
    assert await names(database) == ["a"]


async def test_what_a_short_write_raises_is_told_once(database: Database) -> None:
    def fail(session: Session) -> None:
        raise RuntimeError("no")

    underway = database.begin_short(fail)
    with pytest.raises(RuntimeError):
        await underway.ran
    await database.write_short(add("a"))
    assert underway.durable.done()
    assert await names(database) == ["a"]


async def test_nobody_who_gave_up_keeps_others_from_being_told(database: Database) -> None:
    def fail(session: Session) -> None:
        raise RuntimeError("no")

    gate, waiting = await shut_gate(database)
    given_up = database.begin_short(fail)
    other = asyncio.create_task(database.write_short(add("a")))
    await asyncio.sleep(0)
    given_up.ran.cancel()
    gate.opened.set()
    await waiting
    given_up.durable.cancel()
    assert await other == "a"
    assert await database.write(add("b")) == "b"


async def test_a_thousand_short_writes_share_commits_with_long_ones(database: Database) -> None:
    def count(session: Session) -> None:
        session.execute(update(Lease).values(until=Lease.until + 1))

    await database.write(add("a"))
    writes = (database.write_short(count) if n % 50 else database.write(count) for n in range(1000))
    await asyncio.gather(*writes)
    assert await database.read(lambda session: session.scalar(select(Lease.until))) == 1000  # type: ignore[call-overload]


async def test_a_short_write_does_not_stop_the_loop_while_another_process_writes(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    other = sqlite3.connect(tmp_path / "books.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.create_task(database.write_short(add("a")))
    # Were the loop to wait for the lock, it would wait until the write gives up: nobody else gives it back.
    await asyncio.sleep(0.05)
    other.execute("ROLLBACK")
    other.close()
    assert await write == "a"
    await database.close()


async def test_a_disk_that_the_loop_had_to_wait_for_is_left_to_the_thread(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    loop_thread = threading.get_ident()
    assert await database.write_short(lambda session: threading.get_ident()) == loop_thread
    await database.write_short(lambda session: time.sleep(2 * LONGEST_PAUSE_SECONDS))
    assert await database.write_short(lambda session: threading.get_ident()) != loop_thread
    await database.close()


@pytest.mark.parametrize("is_short", [False, True])
async def test_a_connection_that_breaks_is_replaced(tmp_path: Path, is_short: bool) -> None:
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    write = database.write_short if is_short else database.write

    def cut(session: Session) -> None:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        driver.close()

    await write(add("a"))
    with pytest.raises(Unavailable):
        await write(cut)
    await write(add("b"))
    assert await names(database) == ["a", "b"]
    await database.close()


async def test_a_write_cancelled_before_it_began_never_happens(database: Database) -> None:
    gate, waiting = await shut_gate(database)
    cancelled = asyncio.create_task(database.write(add("a")))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.opened.set()
    await waiting
    await database.write(add("b"))
    assert await names(database) == ["b"]


async def test_a_write_cancelled_after_it_began_happens_in_full(database: Database) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(session: Session) -> None:
        session.add(Lease(name="first", holder="", until=0))
        session.flush()
        entered.set()
        assert go_on.wait(20)
        session.add(Lease(name="second", holder="", until=0))

    cancelled = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(entered.wait, 20)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    go_on.set()
    await database.write(add("third"))
    assert await names(database) == ["first", "second", "third"]


async def test_a_reader_sees_one_snapshot(database: Database) -> None:
    loop = asyncio.get_running_loop()
    await database.write(add("a"))

    def work(session: Session) -> tuple[int, int]:
        count = select(func.count()).select_from(Lease)
        before = session.scalar(count)
        asyncio.run_coroutine_threadsafe(database.write(add("b")), loop).result(20)
        return before or 0, session.scalar(count) or 0

    assert await database.read(work) == (1, 1)
    assert len(await names(database)) == 2


async def test_a_reader_cannot_write(database: Database) -> None:
    def work(session: Session) -> None:
        session.execute(update(Lease).values(until=1))
        session.commit()

    await database.write(add("a"))
    with pytest.raises((DBAPIError, Unavailable)):
        await database.read(work)


async def test_closing_finishes_the_writes_that_wait(books_url: str) -> None:
    database = await Database.open(books_url)
    gate, waiting = await shut_gate(database)
    group = [asyncio.create_task(database.write(add(f"{number}"))) for number in range(5)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0.05)
    gate.opened.set()
    await asyncio.gather(closing, waiting, *group)
    with pytest.raises(Unavailable):
        await database.write(add("late"))
    await database.close()
    again = await Database.open(books_url)
    assert len(await names(again)) == 5
    await again.close()


async def test_writers_on_one_database_do_not_lose_each_others_updates(books_url: str) -> None:
    """Two coordinators: groups that touch the same rows in opposite orders, 400 times."""
    first, second = await Database.open(books_url), await Database.open(books_url)
    await first.write(add("a"))
    await first.write(add("b"))

    def count(*order: str) -> Callable[[Session], None]:
        def work(session: Session) -> None:
            for name in order:
                session.execute(update(Lease).where(Lease.name == name).values(until=Lease.until + 1))  # type: ignore[arg-type]

        return work

    writes = [
        write for _ in range(200) for write in (first.write(count("a", "b")), second.write(count("b", "a")))
    ]
    await asyncio.gather(*writes)
    total = await first.read(lambda session: session.scalar(select(func.sum(Lease.until))))
    assert total == 800
    await first.close()
    await second.close()


async def test_two_hundred_parallel_requests_on_a_balance_for_ten_hold_ten(database: Database) -> None:
    async def job(number: int) -> bool:
        accepted = make_job(ALICE, number=number)
        try:
            await database.write(lambda session: hold(session, accepted))
        except InsufficientBalance:
            return False
        await asyncio.sleep(0.01)
        parts = [taken(accepted)]
        await database.write(
            lambda session: ledger.capture(
                session, accepted.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW
            )
        )
        return True

    await database.write(lambda session: ledger.ensure_treasury(session, TREASURY, NOW))
    await database.write(lambda session: wallet(session, balance=1_000_000))
    gate, waiting = await shut_gate(database)
    jobs = [asyncio.create_task(job(number)) for number in range(200)]
    await asyncio.sleep(0.05)
    gate.opened.set()
    await waiting
    assert sum(await asyncio.gather(*jobs)) == 10
    account = await database.read(lambda session: accounts.find(session, ALICE))
    assert account is not None
    assert (account.balance, account.held, account.spent) == (1_000_000 - 360_000, 0, 360_000)
    assert (await database.read(audit_books)).findings == ()


async def test_the_journal_grows_past_what_fits_32_bits(database: Database) -> None:
    def work(session: Session) -> int | None:
        session.add(Entry(id=2**31 + 5, at=NOW, account_id="x", kind="charge", amount=NanoUsd(2**62)))
        session.flush()
        return session.scalar(select(func.max(Entry.id)))  # type: ignore[arg-type]

    assert await database.write(work) == 2**31 + 5


async def test_a_database_that_cannot_be_opened_is_unavailable() -> None:
    for url in (
        "sqlite+pysqlite:////nonexistent/folder/books.sqlite",
        "postgresql+psycopg://nobody@127.0.0.1:1/books",
    ):
        with pytest.raises(Unavailable):
            await Database.open(url)


async def test_sqlite_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a file"):
        await Database.open("sqlite+pysqlite://")
