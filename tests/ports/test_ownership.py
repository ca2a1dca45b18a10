"""Two coordinators on one database: the second is refused and told why; a killed one stands in no way."""

import asyncio
import os
import signal
import sys

import pytest

from marketplace.domain.errors import Unavailable
from marketplace.storage.ownership import BooksTaken, sole_owner

OWNER = """
import sys, time
from marketplace.storage.ownership import sole_owner
with sole_owner(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_the_second_owner_is_refused_until_the_first_is_gone(books_url: str) -> None:
    with sole_owner(books_url):
        with pytest.raises(BooksTaken, match="another coordinator"), sole_owner(books_url):
            pass
        with pytest.raises(BooksTaken, match="stop it first"), sole_owner(books_url):
            pass
    with sole_owner(books_url):
        pass


async def test_a_killed_owner_leaves_the_books_free(books_url: str) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, books_url, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"mine\n"
    with pytest.raises(BooksTaken) as refused, sole_owner(books_url):
        pass
    assert books_url.startswith("postgresql") or f"process {owner.pid}" in str(refused.value)
    os.kill(owner.pid, signal.SIGKILL)
    await owner.wait()
    async with asyncio.timeout(30):
        while not _is_free(books_url):  # noqa: ASYNC110 - a server takes a moment to notice
            await asyncio.sleep(0.05)


def _is_free(url: str) -> bool:
    try:
        with sole_owner(url):
            return True
    except BooksTaken:
        return False


@pytest.mark.parametrize(
    "url", ["sqlite+pysqlite:////dev/null/books.sqlite", "postgresql+psycopg://nobody@127.0.0.1:1/nothing"]
)
def test_books_that_cannot_be_reached_are_unavailable(url: str) -> None:
    with pytest.raises(Unavailable, match="cannot be opened"), sole_owner(url):
        pass
