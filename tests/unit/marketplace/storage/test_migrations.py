"""The steps of the migrations lead to the tables of the code."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, inspect
from sqlmodel import SQLModel

from marketplace.storage.engines import open_writer
from marketplace.storage.migrate import upgrade


def differences(engine: Engine) -> list[object]:
    """Return what would have to change for the database to equal the tables."""
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, SQLModel.metadata))


def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    engine = open_writer(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    upgrade(engine)
    assert differences(engine) == []
    engine.dispose()


def test_a_forgotten_migration_would_be_noticed(tmp_path: Path) -> None:
    engine = open_writer(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    upgrade(engine)
    account = SQLModel.metadata.tables["account"]
    account.append_column(Column("forgotten", Integer))
    try:
        assert len(differences(engine)) == 1
    finally:
        account._columns.remove(account.c.forgotten)  # type: ignore[attr-defined]  # there is no public way
    engine.dispose()


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    engine = open_writer(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    upgrade(engine)
    before = inspect(engine).get_table_names()
    upgrade(engine)
    assert inspect(engine).get_table_names() == before
    engine.dispose()
