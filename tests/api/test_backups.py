"""A drill: the books are backed up while jobs run, the machine is lost, and another one goes on with them."""

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tallystick.protocol.ids import Address
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.api.test_operator import run
from tests.support.servers import Place, a_server


@pytest.fixture(scope="module")
def drilled(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A backup of books with a charge in them, made while their coordinator ran, which is gone now."""
    folder = tmp_path_factory.mktemp("drill")
    archive = folder / "books.tar"
    with a_server(place, folder / "lost") as server:
        consumer = new_consumer(server)
        with server.openai(consumer["api_key"]) as client:
            ask(client, "hello")
            spent = server.account(consumer["account_id"]).spent
            with client.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": "a stream"}], stream=True
            ) as stream:
                told = run(server, "books", "backup", str(archive))
                assert "".join(one.choices[0].delta.content or "" for one in stream if one.choices)
        refused = run(server, "books", "restore", str(archive), "--force", code=1)
        assert "another coordinator" in refused
    assert told["bytes"] == archive.stat().st_size
    return {"archive": archive, "consumer": consumer, "spent": spent, "lost": folder / "lost"}


def test_restored_books_serve_the_same_accounts(place: Place, drilled: dict[str, Any], folder: Path) -> None:
    restored = run(folder, "books", "restore", str(drilled["archive"]))
    assert restored["receipts"] >= 1
    with a_server(place, folder) as server, server.openai(drilled["consumer"]["api_key"]) as client:
        # The stream that ran during the backup: its hold was in the books, and is given back.
        account = server.account(drilled["consumer"]["account_id"])
        assert (account.held, account.spent >= drilled["spent"]) == (0, True)
        assert ask(client, "hello").choices[0].message.content == "hello"
        server.quiet()
        assert run(server, "books", "verify")["held"] is True


def test_books_that_are_there_are_not_lost(drilled: dict[str, Any], folder: Path) -> None:
    archive = str(drilled["archive"])
    first = run(folder, "books", "restore", archive)
    assert "add --force" in run(folder, "books", "restore", archive, code=1)
    again = run(folder, "books", "restore", archive, "--force")
    assert Path(again["replaced_books"]).is_file()
    assert (again["accounts"], again["receipts"]) == (first["accounts"], first["receipts"])
    assert "there already" in run(folder, "books", "backup", archive, code=1)


def test_a_damaged_archive_changes_nothing(drilled: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    data = bytearray(drilled["archive"].read_bytes())
    data[len(data) // 2] ^= 0xFF
    cut.write_bytes(data)
    assert "damaged" in run(folder, "books", "restore", str(cut), code=1)
    cut.write_bytes(b"not a tar")
    assert "no archive of books" in run(folder, "books", "restore", str(cut), code=1)
    assert not (folder / "books.sqlite").exists()


def test_books_of_another_market_are_refused(place: Place, drilled: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    replace(place.deployment, ledger=Address("0x" + "77" * 20)).save(folder / "deployment.json")
    assert "of the Ledger" in run(folder, "books", "restore", str(drilled["archive"]), code=1)


def test_an_archive_has_no_keys_in_it(drilled: dict[str, Any]) -> None:
    with tarfile.open(drilled["archive"]) as tar:
        assert not [name for name in tar.getnames() if "key" in name]
    secret = (drilled["lost"] / "key").read_bytes()
    assert secret not in drilled["archive"].read_bytes()
