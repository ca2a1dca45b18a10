"""A full disk: a write is done or it is not, its caller is told, and when there is room again all goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.errors import Unavailable
from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from tests.support.books import ALICE, NOW, TREASURY, USD, api_key, hold, make_job, taken, wallet


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")

    def work(session: Session) -> None:
        ledger.ensure_treasury(session, TREASURY, NOW)
        api_key(session, wallet(session, balance=100 * USD, authorized=100 * USD))

    await opened.write(work)
    yield opened
    await opened.close()


async def limit(database: Database, *, more_pages: int) -> None:
    """Let the file grow by so many pages and no further; SQLite then says what it says on a full disk."""

    def work(session: Session) -> None:
        connection = session.connection()
        pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + more_pages}")

    await database.write(work)


async def charge(database: Database, number: int, *, is_short: bool) -> None:
    """Hold and capture one job in one write."""

    def work(session: Session) -> None:
        job = hold(session, make_job(ALICE, number=number, key_id=f"{ALICE}/key"))
        ledger.capture(session, job.id, [taken(job)], finish=0, prompt_tokens=20, output_tokens=100, now=NOW)

    await (database.write_short(work) if is_short else database.write(work))


@pytest.mark.parametrize("is_short", [False, True])
async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_done(
    database: Database, is_short: bool
) -> None:
    await limit(database, more_pages=6)
    outcomes = await asyncio.gather(
        *(charge(database, number, is_short=is_short) for number in range(1, 61)), return_exceptions=True
    )
    failed = [one for one in outcomes if one is not None]
    assert failed
    assert {type(one) for one in failed} == {Unavailable}
    assert "full" in str(failed[0])
    report = await database.read(audit_books)
    assert report.findings == ()
    assert report.receipts == len(outcomes) - len(failed)

    await limit(database, more_pages=100_000)
    await charge(database, 2000, is_short=is_short)
    report = await database.read(audit_books)
    assert report.findings == ()
    account = await database.read(lambda session: accounts.find(session, ALICE))
    assert account is not None
    assert account.spent == 36_000 * report.receipts == 36_000 * (len(outcomes) - len(failed) + 1)
    assert account.held == 0
