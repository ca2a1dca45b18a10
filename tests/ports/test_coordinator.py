"""A whole coordinator on PostgreSQL: the same application, told by a URL alone where its books are."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tallystick.cli import app as cli
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.support.postgres import new_database
from tests.support.servers import a_place, a_server

pytestmark = [pytest.mark.postgres, pytest.mark.anvil]


def test_a_coordinator_serves_from_postgresql(postgres: Path, tmp_path: Path) -> None:
    url = new_database(postgres, "coordinator")
    with a_place() as place, a_server(place, tmp_path / "market", database_url=url) as server:
        consumer = new_consumer(server)
        with server.openai(consumer["api_key"]) as client:
            assert ask(client, "hello").choices[0].message.content == "hello"
        server.quiet()
        assert server.account(consumer["account_id"]).spent > 0
        # The commands come to the books while the coordinator has them.
        for arguments in (("books", "verify"), ("nodes", "list"), ("accounts", "list")):
            told = CliRunner().invoke(
                cli,
                [*arguments, "--data-dir", str(tmp_path / "market")],
                env={"TALLYSTICK_DATABASE_URL": url},
            )
            assert told.exit_code == 0, told.output
        refused = CliRunner().invoke(
            cli, ["books", "backup", str(tmp_path / "books.tar")], env={"TALLYSTICK_DATABASE_URL": url}
        )
        assert "pg_dump" in refused.output
