"""A database with a treasury, and the time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.domain.ports.clock import ManualClock
from marketplace.services import ledger
from marketplace.storage.database import Database
from tests.support.books import NOW, TREASURY


@pytest.fixture
def clock() -> ManualClock:
    """The time, which stands still."""
    return ManualClock(NOW)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A new database with a treasury in it."""
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    await database.write(lambda session: ledger.ensure_treasury(session, TREASURY, NOW))
    yield database
    await database.close()
