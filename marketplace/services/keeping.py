"""Books as one file: everything that a coordinator cannot make again, but for its keys.

An archive (tar) has a consistent copy of the database, taken while it is in use, the epochs' files, the
deployment and the catalog, and a list of all with their SHA-256. Keys are not in it: who has it cannot sign
anything.
"""

import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from marketplace.domain.errors import Refused
from marketplace.services.audit_books import Report, audit_books
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement

LIST: Final = "list.json"
BOOKS: Final = "books.sqlite"
EPOCHS: Final = "epochs"
FORMAT: Final = 1
KNOWN: Final = re.compile(r"books\.sqlite|epochs/[0-9a-f]{64}|[a-z]+\.json")
"""The names that an archive may have in it."""


class BadArchive(Refused):
    """The file is no archive of books, or is damaged."""

    code = "bad_archive"


@dataclass(frozen=True, slots=True)
class Places:
    """Where what belongs to the books lies. `others` are small files by their names in an archive."""

    database: Path
    epochs: Path
    others: dict[str, Path]


class Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in an archive: SHA-256 (hex) by name; `made_at` in milliseconds."""

    format: int
    made_at: int
    files: dict[str, str]


def write_archive(places: Places, target: Path, made_at: int) -> Contents:
    """Write an archive, durably and whole or not at all. A coordinator may run meanwhile."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".books-") as folder:
        copy = Path(folder) / BOOKS
        copy_database(places.database, copy)
        # After the database: an epoch's file is written before the books name it.
        found = {BOOKS: copy} | {f"{EPOCHS}/{path.name}": path for path in _epoch_files(places.epochs)}
        found |= {name: path for name, path in places.others.items() if path.is_file()}
        contents = Contents(
            format=FORMAT, made_at=made_at, files={name: sha256_of(path) for name, path in found.items()}
        )
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _pack(file, contents, found)
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(target)
    return contents


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database that is in use; the copy is as of one moment."""
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        # A file of its own: who copies it needs no second one beside it.
        new.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def unpacked(archive: Path, near: Path) -> Iterator[tuple[Path, Contents]]:
    """Give a folder beside `near` with an archive's files, every hash checked. Raises BadArchive."""
    near.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=near, prefix=".restoring-") as folder:
        try:
            with tarfile.open(archive, "r:") as tar:
                tar.extractall(folder, filter="data")
            contents = msgspec.json.decode((Path(folder) / LIST).read_bytes(), type=Contents)
        except (OSError, tarfile.TarError, msgspec.DecodeError) as error:
            raise BadArchive(f"{archive} is no archive of books: {error}") from error
        if contents.format != FORMAT:
            raise BadArchive(f"{archive} has format {contents.format}; this version reads {FORMAT}")
        for name, digest in contents.files.items():
            if not KNOWN.fullmatch(name):
                raise BadArchive(f"{archive} has {name!r}, which does not belong to books")
            path = Path(folder) / name
            if not path.is_file() or sha256_of(path) != digest:
                raise BadArchive(f"{name} in {archive} is missing or damaged")
        if BOOKS not in contents.files:
            raise BadArchive(f"{archive} has no books")
        yield Path(folder), contents


async def check_unpacked(folder: Path, contents: Contents) -> Report:
    """Bring unpacked books up to date and check that they are whole and add up, and that the files of their
    epochs are there. Raises BadArchive."""
    path = folder / BOOKS
    with closing(sqlite3.connect(path)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise BadArchive(f"the database in the archive is damaged: {verdict}")
    database = await Database.open(f"sqlite+pysqlite:///{path}")
    try:
        report = await database.read(audit_books)
        wanted = await database.read(settlement.published_files)
    finally:
        await database.close()
    if report.findings:
        raise BadArchive(f"the books in the archive do not add up: {report.findings[0]}")
    missing = [one.hex() for one in wanted if f"{EPOCHS}/{one.hex()}" not in contents.files]
    if missing:
        raise BadArchive(f"{len(missing)} epoch files are not in the archive, among them {missing[0]}")
    return report


def put_in_place(folder: Path, contents: Contents, places: Places) -> None:
    """Move unpacked files to where they belong. Nobody may have the books open."""
    places.epochs.mkdir(parents=True, exist_ok=True)
    for name in contents.files:
        if name.startswith(EPOCHS + "/"):
            os.replace(folder / name, places.epochs / Path(name).name)
        elif name in places.others and not places.others[name].exists():
            shutil.copyfile(folder / name, places.others[name])
    for rest in ("-wal", "-shm"):
        # They belong to the database that was here; with another one they would be read into it.
        places.database.with_name(places.database.name + rest).unlink(missing_ok=True)
    os.replace(folder / BOOKS, places.database)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _epoch_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if KNOWN.fullmatch(f"{EPOCHS}/{path.name}"))


def _pack(file: io.BufferedWriter, contents: Contents, found: dict[str, Path]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        listed = msgspec.json.format(msgspec.json.encode(contents))
        entry = tarfile.TarInfo(LIST)
        entry.size, entry.mode = len(listed), 0o600
        tar.addfile(entry, io.BytesIO(listed))
        for name, path in found.items():
            tar.add(path, arcname=name, recursive=False)
