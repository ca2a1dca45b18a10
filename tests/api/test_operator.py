"""What the operator does from the command line, on the books of a coordinator that is running."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from typer.testing import CliRunner

from marketplace.storage.tables import Account
from tallystick.cli import app as cli
from tallystick.models.manifest import model_id
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.support.acting import ActingEngine, Acts
from tests.support.servers import Place, Server, a_server


def run(server: Server | Path, *arguments: str, code: int = 0, **environment: str) -> Any:
    """Run `tallystick … --json` and return what it printed; on a failure its words."""
    folder = server if isinstance(server, Path) else server.folder
    told = CliRunner().invoke(cli, [*arguments, "--data-dir", str(folder), "--json"], env=environment)
    assert told.exit_code == code, told.output
    return json.loads(told.stdout) if told.stdout else told.stderr


@pytest.fixture
def email(server: Server, consumer: dict[str, Any]) -> str:
    """The address of the consumer."""
    return str(server.account(consumer["account_id"]).email)


def test_a_grant_can_be_spent_at_once(
    server: Server, consumer: dict[str, Any], email: str, client: OpenAI
) -> None:
    drained = run(server, "credit", "revoke", email, "100")
    assert (drained["revoked_usd"], drained["available_usd"]) == ("1.00", "0.00")
    with pytest.raises(Exception, match=r"0\.00 is available"):
        ask(client, "hello")
    given = run(server, "credit", "grant", email, "0.25", "--reference", f"invoice of {email}")
    assert (given["given_usd"], given["available_usd"]) == ("0.25", "0.25")
    assert ask(client, "hello").choices[0].message.content == "hello"
    again = run(server, "credit", "grant", email, "0.25", "--reference", f"invoice of {email}", code=1)
    assert "already" in again

    listed = run(server, "credit", "list")
    (line,) = [one for one in listed["accounts"] if one["email"] == email]
    assert line["granted_usd"] == "0.25"
    assert float(line["available_usd"]) == pytest.approx(0.25 - float(line["spent_usd"]))
    assert float(line["spent_usd"]) > 0
    promised = sum(
        server.read(lambda session: [one.deposited for one in session.query(Account).filter_by(kind="email")])
    )
    assert float(listed["promised_usd"]) == pytest.approx(promised / 1e9)


def test_grants_end_where_the_deposit_ends(server: Server, email: str) -> None:
    refused = run(server, "credit", "grant", email, "10001", code=1)
    assert "not promised yet" in refused
    assert run(server, "credit", "grant", email, "100000000000", code=1)
    for amount in ("0", "x"):
        assert run(server, "credit", "grant", email, amount, code=1)


def test_an_unknown_address_is_told_how_accounts_are_opened(server: Server) -> None:
    assert "tallystick account sign-up" in run(server, "credit", "grant", "nobody@example.com", "1", code=1)


def test_the_books_add_up_while_the_coordinator_runs(server: Server, client: OpenAI) -> None:
    ask(client, "hello")
    server.quiet()
    told = run(server, "books", "verify")
    assert (told["held"], told["findings"]) == (True, [])
    assert told["receipts"] > 0


def test_books_that_do_not_add_up_are_found(place: Place, folder: Path) -> None:
    with a_server(place, folder, with_node=False) as server:
        account_id = new_consumer(server)["account_id"]

        def steal(session: Any) -> None:
            session.get(Account, account_id).balance += 1

        server.write(steal)
        told = run(server, "books", "verify", code=1)
    assert not told["held"]
    assert {one["subject"] for one in told["findings"]} == {account_id}


def test_where_there_are_no_books_none_are_made(tmp_path: Path) -> None:
    assert "there are no books" in run(tmp_path, "books", "verify", code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_catalog_admits_what_was_added(place: Place, folder: Path) -> None:
    folder.mkdir()
    missing = {"open_catalog": False}
    with pytest.raises(ValueError, match="catalog file"), a_server(place, folder, **missing):
        pass
    other = "0x" + "ab" * 32
    assert run(folder, "models", "add", other)["models"] == 1
    with a_server(place, folder, with_node=False, open_catalog=False) as server:
        told = run(server, "models", "list", TALLYSTICK_OPEN_CATALOG="false")
        assert [(one["model"], one["state"]) for one in told["models"]] == [
            (other, "waits for a node that offers it")
        ]

    manifest = folder / "echo.json"
    engine = ActingEngine(Acts())
    manifest.write_bytes(engine.manifest_bytes)
    added = run(folder, "models", "add", str(manifest))
    assert (added["model"], added["models"]) == ("0x" + model_id(engine.manifest_bytes).hex(), 2)
    with a_server(place, folder, open_catalog=False) as server:
        told = run(server, "models", "list", TALLYSTICK_OPEN_CATALOG="false")
        assert [(one["name"], one["state"]) for one in told["models"]] == [
            ("echo", "admitted"),
            ("", "waits for a node that offers it"),
        ]
    (folder / "broken.json").write_text("{}")
    assert run(folder, "models", "add", str(folder / "broken.json"), code=1)
    assert run(folder, "models", "add", "nothing", code=1)
