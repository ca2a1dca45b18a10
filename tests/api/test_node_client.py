"""The official Node client: one script asks everything, and its answers are looked at here."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import new_consumer
from tests.support.hubs import eventually
from tests.support.servers import Server

SCRIPT = Path(__file__).parent / "node" / "client.mjs"


@pytest.fixture(scope="module")
def told(server: Server) -> dict[str, Any]:
    """What the script printed."""
    consumer = new_consumer(server)
    node = shutil.which("node")
    assert node is not None, "Node is missing; run ./scripts/setup"
    done = subprocess.run(
        [node, str(SCRIPT), f"{server.url}/v1", consumer["api_key"]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed | {"account_id": consumer["account_id"]}


def test_models(told: dict[str, Any]) -> None:
    assert (told["models"], told["alias"]) == (["echo"], "gpt-4o-mini")


def test_a_whole_answer(told: dict[str, Any]) -> None:
    whole = told["whole"]
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    assert whole["usage"]["total_tokens"] == len("user: hello\nassistant: ") + 6
    assert whole["tallystick"]["charge_nano_usd"] == str(whole["usage"]["total_tokens"] * 300)
    assert told["requestId"].startswith("req_")


def test_a_stream(told: dict[str, Any]) -> None:
    *chunks, usage = told["chunks"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "in pieces"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len("in pieces") + 1
    assert told["assembled"] == "by the helper"


def test_text_completions(told: dict[str, Any]) -> None:
    assert told["text"] == "text"
    assert "".join(chunk["choices"][0]["text"] for chunk in told["textChunks"]) == "text"


def test_refusals_are_the_errors_that_the_client_knows(told: dict[str, Any]) -> None:
    assert (told["several"]["kind"], told["several"]["param"]) == ("BadRequestError", "n")
    assert (told["unknown"]["kind"], told["unknown"]["code"]) == ("NotFoundError", "model_not_found")
    assert (told["tools"]["kind"], told["tools"]["param"]) == ("BadRequestError", "tools")
    assert (told["wrongKey"]["kind"], told["wrongKey"]["status"]) == ("AuthenticationError", 401)
    assert told["unknown"]["requestID"].startswith("req_")


def test_a_failure_in_the_middle_is_thrown(told: dict[str, Any]) -> None:
    assert told["midway"] is not None
    assert "Nothing was charged" in told["midway"]["message"]


def test_a_reader_that_breaks_off_is_charged_for_what_was_made(told: dict[str, Any], server: Server) -> None:
    assert told["seen"] == 5
    server.do(eventually(lambda: server.parts.market.running == 0, 10))
    account = server.account(told["account_id"])
    assert account.held == 0
    assert account.spent < 2000 * 300
