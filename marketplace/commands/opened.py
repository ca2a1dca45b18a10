"""One question to the books, or one change of them, from a command; a coordinator may run meanwhile."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from marketplace.commands.books import local_settings, open_books

T = TypeVar("T")


def read_books(data_dir: Path | None, work: Callable[[Session], T]) -> T:
    """Return what `work` finds in the books. Raises CommandFailed without books, Unavailable."""

    async def act() -> T:
        async with open_books(local_settings(data_dir)) as books:
            return await books.read(work)

    return asyncio.run(act())


def write_books(data_dir: Path | None, work: Callable[[Session], T]) -> T:
    """Do `work` on the books, durably, and return its result. Raises CommandFailed, Unavailable."""

    async def act() -> T:
        async with open_books(local_settings(data_dir)) as books:
            return await books.write(work)

    return asyncio.run(act())


def now_ms() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000
