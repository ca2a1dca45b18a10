"""How long state machines are driven, and the books they start from.

In CI as long as it takes to be believed, at night ten times as long: HYPOTHESIS_PROFILE=night pytest
tests/stateful
"""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import structlog
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine

from marketplace.storage.engines import open_reader, open_writer
from marketplace.storage.migrate import upgrade

NIGHT = 10
"""So many times as many examples as in CI."""
MEMORY = Path("/dev/shm")
"""A file system without a disk, where there is one."""


def machine_settings(*, examples: int, steps: int) -> settings:
    """Return the settings of a state machine with so many examples, of at most so many steps, in CI.

    There every run draws the same examples; at night they are new ones.
    """
    at_night = os.environ.get("HYPOTHESIS_PROFILE") == "night"
    return settings(
        max_examples=examples * (NIGHT if at_night else 1),
        stateful_step_count=steps,
        deadline=None,
        derandomize=not at_night,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Log nothing: a machine brings about every trouble there is, thousands of times."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


@dataclass(frozen=True)
class Place:
    """Where a process keeps the books of its machines, one example's after another's."""

    folder: Path
    writer: Engine
    reader: Engine
    empty: Path

    def renew(self) -> None:
        """Begin with new books, a copy of ones that were made once, and an empty folder of epochs."""
        self.close()
        for old in self.folder.glob("books.sqlite*"):
            old.unlink()
        shutil.rmtree(self.folder / "epochs", ignore_errors=True)
        shutil.copyfile(self.empty, self.folder / "books.sqlite")

    def close(self) -> None:
        """Close the file, as the end of a process does."""
        self.writer.dispose()
        self.reader.dispose()


@cache
def place() -> Place:
    """Return this process's place. Its engines stay: what they have compiled takes longer than most steps."""
    folder = Path(tempfile.mkdtemp(prefix="machines-", dir=MEMORY if MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, folder)
    empty = open_writer(f"sqlite+pysqlite:///{folder}/empty.sqlite")
    upgrade(empty)
    empty.dispose()
    url = f"sqlite+pysqlite:///{folder}/books.sqlite"
    return Place(folder, open_writer(url), open_reader(url), folder / "empty.sqlite")
