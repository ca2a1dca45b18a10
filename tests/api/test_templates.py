"""A model whose own template or tokenizer is broken is said to be, and is no bug of the coordinator's."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tallystick.models.manifest import Manifest, canonical_json, model_id
from tests.api.asking import says
from tests.support.nodes import an_offer
from tests.support.servers import Server
from tests.unit.tallystick.models.tokenizers_for_tests import byte_level_blob

SLOW = {"type": "Replace", "pattern": {"Regex": "(?:a|aa)+$"}, "content": ""}
PANICS = {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""}


class Listing:
    """Gets models into the server's catalog as a node's offer does, for the time of a test."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._names: list[str] = []

    def add(self, *, tokenizer: bytes = b"", **fields: Any) -> str:
        """Return the model's name."""
        kind = hashlib.sha256(tokenizer).hexdigest() if tokenizer else ""
        raw = canonical_json(
            Manifest(family="echo", numerics="echo", **{"context_length": 4096, "tokenizer": kind} | fields)
        )

        async def fetch(digest: bytes, limit: int) -> bytes:
            return tokenizer

        offer = an_offer(name=fields["name"], manifest=raw, model_id=model_id(raw))
        name = self._server.do(self._server.parts.catalog.admit(offer, fetch)).name
        self._names.append(name)
        return name

    def clear(self) -> None:
        """Take them out again."""
        catalog: Any = self._server.parts.catalog
        for name in self._names:
            del catalog._by_id[catalog._by_name.pop(name).id]


@pytest.fixture
def listing(server: Server) -> Iterator[Listing]:
    made = Listing(server)
    yield made
    made.clear()


def with_normalizer(normalizer: dict[str, Any]) -> bytes:
    return json.dumps({**json.loads(byte_level_blob()), "normalizer": normalizer}).encode()


def test_a_broken_template_is_the_models_fault(http: httpx.Client, listing: Listing) -> None:
    broken = listing.add(name="broken", chat_template="{{ nothing.at.all }}")
    answer = http.post("/v1/chat/completions", json={"model": broken, "messages": says("hello")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_template")
    assert answer.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("normalizer", "text", "reason"),
    [
        (PANICS, "a" * 4000 + "b", "breaks on this input"),
        (SLOW, ("a" * 30 + "b") * 100, "too much time"),
    ],
    ids=["panics", "slow"],
)
def test_a_broken_tokenizer_is_the_models_fault(
    http: httpx.Client, listing: Listing, normalizer: dict[str, Any], text: str, reason: str
) -> None:
    broken = listing.add(name="broken", tokenizer=with_normalizer(normalizer))
    for path, body in (("completions", {"prompt": text}), ("chat/completions", {"messages": says(text)})):
        answer = http.post(f"/v1/{path}", json={"model": broken, **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_tokenizer")
        assert answer.json()["error"]["param"] == "model"
        assert reason in answer.json()["error"]["message"]
    assert http.post("/v1/completions", json={"model": "echo", "prompt": "hello"}).status_code == 200


def test_too_long_a_prompt_is_counted(http: httpx.Client, listing: Listing) -> None:
    small = listing.add(name="small", tokenizer=byte_level_blob(), context_length=8)
    for text, tokens in (("zxzxzxzx", 8), ("zxzxzxzxzx", 10)):
        answer = http.post("/v1/completions", json={"model": small, "prompt": text})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert f"{tokens} tokens" in answer.json()["error"]["message"]
