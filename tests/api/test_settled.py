"""What anybody can check once an epoch is settled: the whole way, from an answer to the root on the chain."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from marketplace.storage.tables import ReceiptRow
from tallystick.cli import app
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.ids import to_hex
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.support.servers import Server, a_place, a_server

pytestmark = pytest.mark.anvil
PATIENCE = 60


@dataclass
class Settled:
    """A coordinator whose one epoch is closed, and a receipt in it."""

    server: Server
    consumer: dict[str, Any]
    receipts: list[str]
    epoch: int


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settled]:
    """Two answers, settled on a chain of their own."""
    quick: dict[str, Any] = {"maturity_lag_seconds": 0, "settle_poll_seconds": 0.2, "row_threshold_usd": "0"}
    folder = tmp_path_factory.mktemp("settled")
    with a_place() as place, a_server(place, folder, longest_wait_epochs=0, **quick) as server:
        consumer = new_consumer(server)
        with server.openai(consumer["api_key"]) as client, server.http() as http:
            told: list[Any] = [ask(client, text).to_dict()["tallystick"] for text in ("one", "two")]
            receipts = [one["parts"][0]["receipt"] for one in told]
            # What has matured when an epoch ends is settled in it; the two are to be settled together.
            _until(lambda: server.read(lambda s: s.query(ReceiptRow).filter_by(matured=True).count()) == 2)
            server.do(place.market.wait(place.deployment.epoch_length))
            yield Settled(server, consumer, receipts, _closed(http, receipts))


def _closed(http: httpx.Client, receipts: list[str]) -> int:
    """Wait until the receipts are settled; return their epoch."""

    def proofs() -> list[Any]:
        return [http.get(f"/v1/receipts/{one}").json().get("inclusion") for one in receipts]

    _until(lambda: all(proofs()))
    (epoch,) = {int(one["epoch"]) for one in proofs()}
    return epoch


def _until(is_it: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_it():
        assert time.monotonic() < deadline, "not settled"
        time.sleep(0.1)


@pytest.fixture
def command(settled: Settled, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command as somebody without any key."""
    monkeypatch.setenv("TALLYSTICK_URL", f"{settled.server.url}/v1")
    monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TALLYSTICK_RPC_URL", raising=False)

    def run(*arguments: object) -> dict[str, Any]:
        shown = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert shown.exit_code == 0, shown.output
        told: dict[str, Any] = json.loads(shown.stdout)
        return told

    return run


def test_a_settled_receipt_is_proven_to_anybody(settled: Settled, command: Any) -> None:
    for receipt in settled.receipts:
        told = command("receipt", "verify", receipt)
        assert told["held"], told
        assert told["open"] == []
        assert "inclusion" in [check["what"] for check in told["checks"]]


def test_a_proof_of_another_receipt_does_not_hold(settled: Settled, command: Any, tmp_path: Any) -> None:
    with settled.server.http() as http:
        first, second = (http.get(f"/v1/receipts/{one}").json() for one in settled.receipts)
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(first | {"inclusion": second["inclusion"]}))
    shown = CliRunner().invoke(app, ["receipt", "verify", str(path), "--json"])
    assert (shown.exit_code, json.loads(shown.stdout)["failed"]) == (1, ["inclusion"])


def test_the_epochs_file_is_what_the_chain_says(settled: Settled, command: Any) -> None:
    assert [one["epoch"] for one in command("epoch", "list")["data"]] == [settled.epoch]
    told = command("epoch", "verify", settled.epoch)
    assert told["held"], told
    assert told["open"] == []


def test_the_epoch_is_the_same_as_json_and_as_a_file(settled: Settled) -> None:
    with settled.server.http() as http:
        told = http.get(f"/v1/epochs/{settled.epoch}").json()
        raw = http.get(f"/v1/epochs/{settled.epoch}", headers={"accept": "application/octet-stream"}).content
    assert to_hex(decode_epoch(raw).hash) == told["file_hash"] == told["file"]["hash"]
    assert sorted(one["id"] for one in told["file"]["receipts"]) == sorted(settled.receipts)
    assert [to_hex(one) for one in decode_epoch(raw).receipt_ids] == sorted(settled.receipts)


def test_whoever_has_an_epoch_already_is_told_so_and_nothing_is_read(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v1/epochs/{settled.epoch}"
    forms = [{"accept": "application/octet-stream"}, {"accept": "application/json"}]
    with settled.server.http() as http:
        given = [http.get(path, headers=form) for form in forms]
        # From here on reading a file fails: what was given is remembered, by the reader or here.
        monkeypatch.setattr("marketplace.api.public.epochs._page", None)
        for form, answer in zip(forms, given, strict=True):
            assert "immutable" in answer.headers["cache-control"]
            again = http.get(path, headers=form | {"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert http.get(path).json() == given[1].json()
        assert given[0].headers["etag"] != given[1].headers["etag"]


def test_a_page_of_an_epoch_is_a_page_of_its_file(settled: Settled) -> None:
    with settled.server.http() as http:
        path = f"/v1/epochs/{settled.epoch}"
        whole = http.get(path).json()["file"]["receipts"]
        for first in (0, 1, 99):
            told = http.get(path, params={"first_receipt": first, "first_row": first}).json()["file"]
            assert (told["receipts"], told["receipt_count"]) == (whole, 2)
            assert (told["first_receipt"], told["first_row"]) == (0, 0)
            assert (told["charge_count"], told["payout_count"]) == (
                len(told["charges"]),
                len(told["payouts"]),
            )
        for name in ("first_receipt", "first_row"):
            for first in (100, 2**63 - 1):
                beyond = http.get(path, params={name: first})
                assert (beyond.status_code, beyond.json()["error"]["code"]) == (404, "not_found")
