"""`epoch verify` against a real chain: an honest epoch passes, every kind of wrong one fails by name."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallystick.cli import app
from tests.support.epochs import Published, published_epoch

pytestmark = pytest.mark.anvil


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Published]:
    """A settled epoch on Anvil."""
    async with published_epoch(tmp_path, monkeypatch) as made:
        monkeypatch.setenv("TALLYSTICK_URL", made.base_url)
        monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("TALLYSTICK_RPC_URL", raising=False)
        yield made


async def run(*arguments: object) -> Result:
    """Run the command line beside the running servers."""
    return await asyncio.to_thread(CliRunner().invoke, app, [str(one) for one in arguments])


async def told(*arguments: object) -> dict[str, Any]:
    """Return the JSON that a command printed."""
    result = await run(*arguments, "--json")
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


async def test_an_honest_epoch_passes_every_check(stand: Published) -> None:
    found = await told("epoch", "verify", stand.epoch)
    assert found["held"], found
    assert found["open"] == []
    assert [check["what"] for check in found["checks"]] == [
        "hash",
        "place",
        "root",
        "receipts",
        "rights",
        "recorded",
        "sums",
    ]
    assert "of 2 charges 1 bring a consent" in str(found)
    assert "$5.00 charged, $5.00 paid out, $5.00 moved" in str(found)
    shown = await run("epoch", "verify", stand.epoch)
    assert shown.exit_code == 0
    assert "✗" not in shown.output


async def test_a_file_that_was_downloaded_is_checked_without_its_coordinator(
    stand: Published, tmp_path: Path
) -> None:
    path = tmp_path / "kept.bin"
    assert (await run("epoch", "download", stand.epoch, "--to", path)).exit_code == 0
    assert path.read_bytes() == await stand.file()
    stand.status = 503
    assert (await told("epoch", "verify", stand.epoch, "--file", path))["held"]
    path.write_bytes(path.read_bytes()[:-1])
    assert (await told("epoch", "verify", stand.epoch, "--file", path))["failed"] == ["hash", "file"]


async def test_a_receipt_with_another_signature_fails_hash_and_receipts(stand: Published) -> None:
    # The last record's signature ends two bytes before the end: v, then the flags.
    stand.change = lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:]
    found = await told("epoch", "verify", stand.epoch)
    assert found["failed"] == ["hash", "receipts"]
    assert (await run("epoch", "verify", stand.epoch)).exit_code == 1


async def test_an_epoch_that_is_not_closed_is_said_to_be_none(stand: Published, tmp_path: Path) -> None:
    path = tmp_path / "kept.bin"
    path.write_bytes(await stand.file())
    assert (await told("epoch", "verify", stand.epoch + 50, "--file", path))["failed"] == ["closed"]


async def test_errors_are_one_line(stand: Published) -> None:
    shown = await run("epoch", "verify", stand.epoch + 1)
    assert shown.exit_code == 1
    assert shown.stderr.strip().splitlines() == ["Error: not here (status 404)"]
