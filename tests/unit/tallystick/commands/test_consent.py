"""`tallystick account consent`: it signs for other clients' answers, and says for how much first."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import Result
from eth_account import Account
from typer.testing import CliRunner

from tallystick.cli import app
from tests.unit.tallystick.sdk.test_client import Desk, opened
from tests.unit.tallystick.test_consents import a_receipt

CHEAP = {"kdf": "pbkdf2", "iterations": 2}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The consumer's home, with its wallet."""
    (tmp_path / "wallet.json").write_text(
        json.dumps(Account.encrypt((50).to_bytes(32, "big"), "words", **CHEAP))
    )
    for name, value in {"HOME": str(tmp_path), "PASSPHRASE": "words", "API_KEY": "tsk_key"}.items():
        monkeypatch.setenv(f"TALLYSTICK_{name}", value)
    return tmp_path


async def consent(url: str, *options: str, said: str = "") -> Result:
    """Run the command."""
    arguments = ["account", "consent", "--json", *options]
    return await asyncio.to_thread(
        CliRunner().invoke, app, arguments, input=said, env={"TALLYSTICK_URL": url}
    )


async def test_the_sum_is_said_before_it_is_signed(home: Path) -> None:
    desk = Desk(receipts=[a_receipt(1), a_receipt(2)])
    async with opened(desk) as url:
        refused = await consent(url, said="n\n")
        assert refused.exit_code == 1
        assert "$0.000072 more, in 2 new receipts" in refused.stderr
        assert desk.consents == []
        signed = await consent(url, said="y\n")
        assert (signed.exit_code, desk.consents[-1]["spent"]) == (0, "72000"), signed.stderr
        desk.receipts.append(a_receipt(3))
        more = await consent(url, "--yes")
        assert json.loads(more.stdout)["more_usd"] == "0.000036"
        # Nothing new is nothing to ask.
        again = await consent(url)
    assert [one["spent"] for one in desk.consents] == ["72000", "108000", "108000"]
    assert json.loads(again.stdout) == {
        "receipts": 3,
        "new_receipts": 0,
        "more_usd": "0.00",
        "consented_nano_usd": "108000",
        "consented_usd": "0.000108",
    }


async def test_nothing_is_signed_for_contracts_that_are_not_those_of_before(home: Path) -> None:
    desk = Desk()
    async with opened(desk) as url:
        (home / "consents").mkdir()
        (home / "consents" / "ledgers.json").write_text(json.dumps({url: [10, "0x" + "11" * 20]}))
        refused = await consent(url, "--yes")
    assert refused.exit_code == 1
    assert "Nothing was signed" in refused.stderr
    assert desk.consents == []


async def test_a_list_of_receipts_that_goes_on_for_ever_is_not_followed(home: Path) -> None:
    desk = Desk(receipts=[a_receipt(1), a_receipt(2)], has_more=True)
    async with opened(desk) as url:
        repeats = await consent(url, "--yes")
        endless = await consent(url, "--yes", "--most", "1")
    assert (repeats.exit_code, endless.exit_code) == (1, 1)
    assert "the same receipts again" in repeats.stderr
    assert "more than 1 receipts; see --most" in endless.stderr
    assert desk.consents == []
