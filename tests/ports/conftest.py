"""One suite per port, for every implementation."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from marketplace.storage.database import Database
from tests.support.postgres import new_database, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The folder of a PostgreSQL server's socket."""
    with postgres_server() as socket:
        yield socket


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+pysqlite:///{tmp_path}/books.sqlite"
    return new_database(request.getfixturevalue("postgres"), f"books_{secrets.token_hex(6)}")


@pytest.fixture
async def database(books_url: str) -> AsyncIterator[Database]:
    """A new database of each kind."""
    database = await Database.open(books_url)
    yield database
    await database.close()
