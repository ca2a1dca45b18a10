"""How long state machines are driven, and the books they start from.

In CI as long as it takes to be believed, at night ten times as long: HYPOTHESIS_PROFILE=night pytest
tests/stateful
"""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings

from marketplace.storage.engines import open_writer
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


def quick_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for one example, in memory if the machine has a place for it."""
    return tempfile.TemporaryDirectory(prefix="machine-", dir=MEMORY if MEMORY.is_dir() else None)


def new_books(folder: str) -> str:
    """Put new books into a folder, a copy of ones that were made once, and return their URL."""
    path = Path(folder) / "books.sqlite"
    shutil.copyfile(_empty_books(), path)
    return f"sqlite+pysqlite:///{path}"


@cache
def _empty_books() -> Path:
    """Return new books; their migrations take longer than many steps."""
    folder = tempfile.mkdtemp(prefix="empty-books-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "books.sqlite"
    engine = open_writer(f"sqlite+pysqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path
