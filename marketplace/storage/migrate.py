"""Brings a database's schema up to date when the coordinator starts.

After a change of `tables.py`, `python -m marketplace.storage.migrate "what changed"` writes the next step
into `migrations/versions`, to be read and corrected. A test compares the steps' outcome with the tables.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from marketplace.domain.errors import Unavailable
from marketplace.storage.engines import open_writer

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x7A11_571C
"""Any number of ours: PostgreSQL's name for "one process migrates at a time"."""


class BooksTooNew(Unavailable):
    """The books were written by a later version than this one."""

    code = "books_too_new"


def upgrade(engine: Engine) -> None:
    """Run the steps that the database has not seen, all in one transaction.

    Raises BooksTooNew for books that have seen steps which this version does not have; they stay as they are.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        config = _config(connection)
        _check_known(connection, config)
        command.upgrade(config, "head")


def _check_known(connection: Connection, config: Config) -> None:
    steps = ScriptDirectory.from_config(config)
    seen = MigrationContext.configure(connection).get_current_revision()
    if seen is not None and seen not in {step.revision for step in steps.walk_revisions()}:
        raise BooksTooNew(
            f"These books are of a newer version (step {seen}; this one knows {steps.get_current_head()}). "
            "Upgrade tallystick, or restore a backup that this version made."
        )


def write_next(message: str) -> None:
    """Write the step that leads from the last one to the tables as they are now."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_writer(f"sqlite+pysqlite:///{folder}/books.sqlite")
        with engine.begin() as connection:
            config = _config(connection)
            command.upgrade(config, "head")
            number = len(list((MIGRATIONS / "versions").glob("step_*.py"))) + 1
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
        engine.dispose()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("file_template", "step_%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


if __name__ == "__main__":
    write_next(" ".join(sys.argv[1:]))
