"""A key of one's own comes from a file or a pipe, never from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tallystick.cli import app
from tests.support.nodes import key_of
from tests.unit.tallystick.commands.test_help import COMMANDS

HEX = f"{7:064x}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and a passphrase."""
    monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TALLYSTICK_PASSPHRASE", "words")
    return tmp_path / "home"


@pytest.mark.parametrize("piped", [False, True])
def test_a_wallets_key_is_read_from_a_file_or_a_pipe(home: Path, tmp_path: Path, piped: bool) -> None:
    (path := tmp_path / "key").write_text(f"0x{HEX}\n")
    where, said = ("-", f"{HEX}\n") if piped else (str(path), "")
    made = CliRunner().invoke(app, ["account", "create-wallet", "--key-file", where, "--json"], input=said)
    assert json.loads(made.stdout)["address"] == key_of(7).address, made.output


def test_what_is_no_key_is_refused_and_not_repeated(home: Path, tmp_path: Path) -> None:
    (path := tmp_path / "key").write_text(HEX[1:])
    for where, said in ((path, "has no key"), (tmp_path / "nothing", "cannot be read")):
        refused = CliRunner().invoke(app, ["account", "create-wallet", "--key-file", str(where)])
        assert refused.exit_code == 1
        assert said in refused.stderr
        assert HEX[1:] not in refused.output
    assert not home.exists()


def test_no_command_takes_a_secret_as_an_argument() -> None:
    by_value = {
        f"{name} {parameter.name}"
        for name, command in COMMANDS.items()
        for parameter in command.params
        if (parameter.name or "").endswith(("key", "secret", "passphrase", "password"))
        and "path" not in parameter.type.name
    }
    assert by_value == set()
