"""One coordinator per books: the second one to start is told so, and a killed one owns nothing.

The kernel (SQLite) or the server (PostgreSQL) gives the lock back when its owner dies, however it dies, so
whoever has it knows that no other process runs a job on these books.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from marketplace.domain.errors import Unavailable

_LOCK_NUMBER: Final = 0x7A11_571D
"""Which of PostgreSQL's advisory locks is ours; they are apart for each database, and this is not the one of
migrations, which would wait for their own coordinator."""
_TRY: Final = text("SELECT pg_try_advisory_lock(:number)")


class BooksTaken(Unavailable):
    """Another coordinator runs on these books."""

    code = "books_taken"


@contextmanager
def sole_owner(url: str) -> Iterator[None]:
    """Own the books at `url` while the block runs.

    Raises BooksTaken if another process does, Unavailable if the database does not answer.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with _locked_file(Path(parsed.database or "").resolve()):
            yield
        return
    with _locked_database(url):
        yield


@contextmanager
def _locked_file(books: Path) -> Iterator[None]:
    path = books.with_name(books.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("a+")
    except OSError as error:
        raise Unavailable(f"The books at {books} cannot be opened: {error}") from error
    with file:
        _lock(file, books)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _lock(file: IO[str], books: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        raise BooksTaken(
            f"another coordinator (process {file.read().strip() or 'unknown'}) runs on the books at {books}; "
            "stop it first, or choose another --data-dir"
        ) from error


@contextmanager
def _locked_database(url: str) -> Iterator[None]:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)
    try:
        connection = engine.connect()
        is_ours = connection.scalar(_TRY, {"number": _LOCK_NUMBER})
    except SQLAlchemyError as error:
        raise Unavailable(f"The database cannot be opened: {error}") from error
    with connection:
        if not is_ours:
            raise BooksTaken(
                f"another coordinator runs on the database {make_url(url).database!r}; stop it first, or set "
                "another TALLYSTICK_DATABASE_URL"
            )
        yield
