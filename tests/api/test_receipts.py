"""Receipts for those who ask: one's own, page by page, and nobody else's."""

import os
from typing import Any

import httpx
import pytest

from tallystick.protocol.eip712 import receipt_digest
from tallystick.protocol.ids import to_hex
from tallystick.protocol.keys import recover
from tallystick.protocol.receipts import receipt_charge
from tallystick.protocol.rendering import receipt_from_json
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.support.acting import BREAK_MIDWAY
from tests.support.servers import Server


@pytest.fixture
def answers(server: Server, consumer: dict[str, Any]) -> list[str]:
    """The receipts of five answers, in order."""
    with server.openai(consumer["api_key"]) as client:
        told: list[Any] = [ask(client, f"number {number}").to_dict()["tallystick"] for number in range(5)]
    return [one["parts"][0]["receipt"] for one in told]


def test_a_receipt_is_the_nodes_own_word(server: Server, http: httpx.Client, answers: list[str]) -> None:
    told = http.get(f"/v1/receipts/{answers[0]}").json()
    signed = receipt_from_json(told)
    digest = receipt_digest(server.place.deployment.ledger_domain, signed.receipt)
    assert to_hex(digest) == told["id"] == answers[0]
    assert recover(digest, signed.signature) == signed.receipt.node == server.place.config("").node
    assert told["charge_nano_usd"] == str(receipt_charge(signed.receipt))
    assert (told["status"], "inclusion" in told) == ("taken", False)
    assert told["taken"]["signature"].startswith("0x")


def test_receipts_come_page_by_page_the_oldest_first(http: httpx.Client, answers: list[str]) -> None:
    first = http.get("/v1/receipts", params={"limit": 2}).json()
    second = http.get("/v1/receipts", params={"limit": 2, "after": first["data"][-1]["id"]}).json()
    third = http.get("/v1/receipts", params={"limit": 2, "after": second["data"][-1]["id"]}).json()
    pages = [first, second, third]
    assert [one["id"] for page in pages for one in page["data"]] == answers
    assert [page["has_more"] for page in pages] == [True, True, False]
    assert http.get("/v1/receipts", params={"after": answers[-1]}).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
    }


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", ""])
def test_a_page_has_one_to_a_hundred(http: httpx.Client, limit: str) -> None:
    answer = http.get("/v1/receipts", params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_receipts_of_others_are_not_there(server: Server, answers: list[str]) -> None:
    with server.http(new_consumer(server)["api_key"]) as other:
        assert other.get(f"/v1/receipts/{answers[0]}").status_code == 404
        assert other.get("/v1/receipts").json()["data"] == []
        # A receipt of somebody else's is no place to go on from either.
        assert other.get("/v1/receipts", params={"after": answers[0]}).json()["data"] == []
    with server.http() as stranger:
        assert stranger.get(f"/v1/receipts/{answers[0]}").status_code == 404
        assert stranger.get("/v1/receipts").status_code == 401


def test_a_receipt_that_there_is_not(http: httpx.Client) -> None:
    assert http.get(f"/v1/receipts/0x{os.urandom(32).hex()}").status_code == 404
    assert http.get("/v1/receipts/0x00").status_code == 404
    answer = http.get("/v1/receipts/zz")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "receipt_id")


def test_an_answer_that_failed_leaves_the_consumer_no_receipt(http: httpx.Client, server: Server) -> None:
    http.post(
        "/v1/chat/completions",
        json={"model": "echo", "messages": [{"role": "user", "content": BREAK_MIDWAY}]},
    )
    server.quiet()
    assert all(one["charge_nano_usd"] == "0" for one in http.get("/v1/receipts").json()["data"])
