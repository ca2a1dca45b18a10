"""A database with a treasury, the time, and a town that settles."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.ports.clock import ManualClock
from marketplace.services import ledger
from marketplace.storage.database import Database
from tests.support.books import NOW, TREASURY
from tests.support.settling import MakeTown, Town, town


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


@pytest.fixture(params=["memory", pytest.param("anvil", marks=pytest.mark.anvil)])
def make_town(request: pytest.FixtureRequest, tmp_path: Path) -> MakeTown:
    def make(**settings: Any) -> AbstractAsyncContextManager[Town]:
        return town(request.param, tmp_path, **settings)

    return make


@pytest.fixture
async def small_town(make_town: MakeTown) -> AsyncIterator[Town]:
    async with make_town() as made:
        yield made
