"""What commands show people: whole hashes in narrow terminals, and words where a passphrase is missing."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from marketplace.commands import accounts
from tallystick.commands import checks
from tallystick.commands.console import CommandFailed, facts
from tallystick.commands.credentials import passphrase

HASH = "0x" + "a1b2c3d4" * 8


@pytest.mark.parametrize("width", [40, 80, 90])
def test_no_character_of_a_hash_is_left_out(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(checks.table(checks.document([checks.Check("root", True, f"1 receipt gives {HASH}, so")])))
    shown = "".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert HASH in shown
    assert "…" not in shown


@pytest.mark.parametrize("width", [40, 80])
def test_a_hash_is_on_one_line_so_that_it_can_be_copied(width: int) -> None:
    output = io.StringIO()
    said = {
        "transaction": HASH,
        "two": [HASH, "[bold]"],
        "next": "a sentence of many words " * 5,
        "none": None,
    }
    Console(file=output, width=width, soft_wrap=True).print(facts(said))
    lines = output.getvalue().splitlines()
    assert sum(HASH in line for line in lines) == 2
    assert sum("[bold]" in line for line in lines) == 1
    assert all(len(line) <= width for line in lines if HASH not in line)


def test_accounts_are_listed_by_their_whole_names() -> None:
    line = {"status": "active", "balance_usd": "1", "held_usd": "0", "spent_usd": "0", "earned_usd": "0"}
    wallet = line | {"account": "0x" + "ab" * 20, "who": "0x" + "ab" * 20, "kind": "wallet"}
    email = line | {"account": "acct_1", "who": "[carol]@example.com", "kind": "email"}
    console = Console(file=io.StringIO(), width=80)
    console.print(accounts._lines({"accounts": [wallet, email]}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.splitlines()[0] == "0x" + "ab" * 20
    assert "acct_1  [carol]@example.com" in shown


def test_a_missing_passphrase_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="nothing-here"):
        passphrase(tmp_path / "nothing-here")

    monkeypatch.delenv("TALLYSTICK_PASSPHRASE", raising=False)
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: (_ for _ in ()).throw(EOFError))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandFailed, match="TALLYSTICK_PASSPHRASE"):
        passphrase(None)
