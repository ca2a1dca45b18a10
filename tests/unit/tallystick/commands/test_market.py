"""What a consumer's commands know of the market, with a coordinator and without it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tallystick.commands.credentials import Credentials
from tallystick.commands.market import Api, Unreachable
from tallystick.sdk.answers import TallystickError

MARKET = {
    "chain_id": 31337,
    "contracts": {
        name: "0x" + digit * 40 for name, digit in (("ledger", "1"), ("stake", "2"), ("token", "3"))
    },
    "coordinator": "0x" + "4" * 40,
    "rpc_url": "http://127.0.0.1:8545",
    "local": True,
}


class Market(BaseHTTPRequestHandler):
    """Says where the contracts are, and nothing else."""

    def do_GET(self) -> None:
        """Answer `/v1/market`; anything else is no coordinator's answer."""
        known = self.path == "/v1/market"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(MARKET).encode() if known else b"<p>not found</p>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path))
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Market)
    threading.Thread(target=serving.serve_forever).start()
    yield serving
    serving.shutdown()
    serving.server_close()


def api_of(server: ThreadingHTTPServer) -> Api:
    return Api(Credentials(base_url=f"http://127.0.0.1:{server.server_port}/v1"))


def test_a_coordinator_that_is_gone_is_not_needed_to_find_the_contracts(server: ThreadingHTTPServer) -> None:
    api = api_of(server)
    known = api.market()

    server.shutdown()
    server.server_close()

    with pytest.raises(Unreachable):
        api.call("GET", "/market")
    assert api.market() == known


def test_what_another_market_said_is_not_used(server: ThreadingHTTPServer) -> None:
    api_of(server).market()

    with pytest.raises(Unreachable):
        Api(Credentials(base_url="http://127.0.0.1:9/v1")).market()


def test_an_answer_that_is_not_a_coordinators_is_said_to_be_none(server: ThreadingHTTPServer) -> None:
    with pytest.raises(TallystickError, match="does not answer as a coordinator; set TALLYSTICK_URL"):
        api_of(server).call("GET", "/balance")
