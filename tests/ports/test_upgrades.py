"""Filled books of every earlier version are brought up to date, on every database, to the last row."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, create_engine, select
from sqlmodel import SQLModel

from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.services.audit_epochs import audit_epochs
from marketplace.services.keys import KeyTerms, new_key
from marketplace.storage.database import Database
from marketplace.storage.engines import open_writer
from marketplace.storage.migrate import MIGRATIONS, BooksTooNew, _config
from marketplace.storage.queries import settlement as queries
from tests.ports.test_pruning import season
from tests.support.books import hold, make_job, taken
from tests.support.chains import address
from tests.support.settling import Town, town

PLACE = {"epoch", "leaf", "batch"}
REVISIONS = [one.revision for one in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
ALICE = address(3)
REPLACED = {("account", "accruing_since"): "by step 0004"}
"""Columns that there are no more; a test of its own says what became of their values."""

Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Filled:
    """Books in which two epochs were settled, jobs run and keys were made: their rows, and who filled them.

    Of the receipts that are in no epoch, one has not matured, one has, and one had also got a place in an
    epoch that was never stored.
    """

    rows: Rows
    town: Town
    free: frozenset[bytes]


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[Filled]:
    url = f"sqlite+pysqlite:///{tmp_path}/filled.sqlite"
    async with town("memory", tmp_path, books_url=url) as made:
        await season(made)
        for _ in range(2):
            await made.work("dave", 6, 1_000_000)
        await made.work("dave", 6, 1_000_000, matures=False)
        await made.database.write(lambda session: new_key(session, ALICE, KeyTerms(name="old"), 1))
        engine = create_engine(url)
        rows = rows_of(engine)
        engine.dispose()
        last = max(row["last_batch"] for row in rows["epoch"])
        free = frozenset(row["id"] for row in rows["receipt"] if row["matured"] and row["batch"] > last)
        assert len(free) == 2
        yield Filled(rows, made, free)


def with_places(filled: Filled) -> Rows:
    """Return the rows as they were when each receipt's own row had its epoch and its place there."""
    epochs = sorted((row["last_batch"], row["number"]) for row in filled.rows["epoch"])
    receipts = sorted(filled.rows["receipt"], key=lambda row: bytes(row["id"]))
    places: Counter[int] = Counter()
    older = []
    for row in receipts:
        batch = row["batch"]
        epoch = next((number for last, number in epochs if batch is not None and last >= batch), None)
        if row["id"] == min(filled.free):
            epoch = epochs[-1][1] + 3
        older.append({**row, "epoch": epoch, "leaf": None if epoch is None else places[epoch]})
        if epoch is not None:
            places[epoch] += 1
    return {**filled.rows, "receipt": older}


def without_places(rows: Rows) -> Rows:
    """Return rows less what receipts have no more."""
    receipts = [{name: one for name, one in row.items() if name not in PLACE} for row in rows["receipt"]]
    return {**rows, "receipt": receipts}


def rows_of(engine: Engine) -> Rows:
    """Return every row there is, by table."""
    metadata = MetaData()
    with engine.connect() as connection:
        metadata.reflect(connection)
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in metadata.sorted_tables
            if table.name != "alembic_version"
        }


def fill_at(url: str, revision: str, rows: Rows) -> Rows:
    """Make books of an earlier version with `rows`, as far as it had their tables and columns."""
    engine = open_writer(url)
    with engine.begin() as connection:
        command.upgrade(_config(connection), revision)
        metadata = MetaData()
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            known = [
                # The database numbers the journal's lines itself.
                {n: value for n, value in row.items() if n in table.c and (table.name, n) != ("entry", "id")}
                for row in rows.get(table.name, [])
            ]
            if known:
                # A step may have put its own row in.
                connection.execute(table.delete())
                connection.execute(table.insert(), known)
    before = rows_of(engine)
    engine.dispose()
    return before


@pytest.mark.parametrize("revision", REVISIONS[:-1])
async def test_filled_books_are_upgraded_and_used(books_url: str, filled: Filled, revision: str) -> None:
    before = without_places(fill_at(books_url, revision, with_places(filled)))
    assert len(before["receipt"]) == 15
    database = await Database.open(books_url)
    try:
        report = await database.read(audit_books)
        assert (report.findings, report.receipts) == ((), 15)
        # The same receipts at the same places: each epoch's file is made again, to the byte.
        assert await audit_epochs(database, filled.town.files, filled.town.driver.domain) == []
        engine = create_engine(books_url)
        after = without_places(rows_of(engine))
        with engine.begin() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, SQLModel.metadata) == []
        engine.dispose()
        for table, rows in before.items():
            names = [name for name in rows[0] if (table, name) not in REPLACED] if rows else []
            kept, were = ([{n: row[n] for n in names} for row in some] for some in (after[table], rows))
            assert sorted(map(repr, kept)) == sorted(map(repr, were)), table

        cut = await database.write(queries.cut)
        free = await database.read(lambda session: list(queries.receipt_ids_of(session, cut)))
        assert free == sorted(filled.free)

        job = make_job(ALICE, number=77)
        await database.write(lambda session: hold(session, job))
        parts = [taken(job)]
        await database.write(
            lambda session: ledger.capture(
                session, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=2
            )
        )
        assert (await database.read(audit_books)).findings == ()
    finally:
        await database.close()


async def test_earnings_that_charges_have_put_off_are_due_when_books_are_upgraded(books_url: str) -> None:
    amounts = ("spent_matured", "spent_settled", "earned", "earned_settled", "accruing_since")
    accounts = {
        "consumer": (5, 3, 0, 0, 700),
        "operator": (0, 0, 5, 3, 700),
        "both": (5, 3, 5, 3, 700),
        "paid_in_full": (5, 5, 5, 5, None),
    }
    fill_at(
        books_url,
        "0003",
        {
            "account": [
                {"id": name, "kind": "wallet", "status": "active", "email_verified": False, "created_at": 100}
                | dict(zip(amounts, values, strict=True))
                for name, values in accounts.items()
            ]
        },
    )
    await (await Database.open(books_url)).close()
    engine = create_engine(books_url)
    waits = {row["id"]: (row["spent_since"], row["earned_since"]) for row in rows_of(engine)["account"]}
    engine.dispose()
    assert waits == {
        "consumer": (700, None),
        "operator": (None, 700),
        "both": (700, 100),
        "paid_in_full": (None, None),
    }


async def test_books_of_a_newer_version_are_left_alone(books_url: str) -> None:
    await (await Database.open(books_url)).close()
    engine = create_engine(books_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(BooksTooNew, match="step 9999"):
        await Database.open(books_url)
