"""What comes in by HTTP, through the real application in this process: books, hub, an agent, a chain."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.types import Message

from marketplace.services.audit_books import audit_books
from marketplace.storage.tables import Account
from tests.fuzz.driver import Parser
from tests.fuzz.mutation import TEXTS, Mutator
from tests.fuzz.words import CHAT, SIGN_IN
from tests.support.servers import Server, a_place, a_server

PRICE = 300
REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 409, 413, 422, 429})
REDIRECT = 307
"""A path with a slash too many is sent to the one without."""
OUT_OF_ORDER = frozenset({"no_node", "node_busy", "nodes_failed"})
"""Codes of a 503 that a wish nobody can fulfil deserves."""

CHATS = (
    {"model": "echo", "messages": CHAT, "max_tokens": 64},
    {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 20,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "logit_bias": {"7": -100, "11": 1},
        "stop": ["xx", "END"],
        "seed": 7,
        "logprobs": False,
        "n": 1,
        "user": "somebody",
        "tallystick": {"max_output_price": "5", "region": ""},
    },
)
TEXTS_TO_CONTINUE = (
    {"model": "echo", "prompt": "Once upon a time", "max_tokens": 20},
    {"model": "echo", "prompt": [104, 101, 108, 108, 111], "max_tokens": 20, "stream": True, "stop": "l"},
    {"model": "echo", "prompt": ["hello"], "max_tokens": 20, "temperature": 0},
)
SIGNATURE = "0x" + "5f" * 64 + "1b"
ACCOUNT_CALLS: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/v1/accounts", {"email": "somebody@example.com"}),
    ("POST", "/v1/accounts/verify", {"token": "A" * 43}),
    ("POST", "/v1/sessions", {"message": SIGN_IN, "signature": SIGNATURE}),
    ("POST", "/v1/sessions/email", {"email": "somebody@example.com"}),
    ("POST", "/v1/keys", {"name": "k", "scope": "inference", "cap_usd": "0.5", "max_input_price": "0.30"}),
    ("PATCH", "/v1/keys/k1", {"name": "k", "cap_usd": None}),
    ("POST", "/v1/consents", {"spent": "3000", "signature": SIGNATURE, "account": "0x" + "5f" * 20}),
)
PLACES = (
    ("/v1/receipts/", "0x" + "5f" * 32),
    ("/v1/epochs/", "7"),
    ("/v1/models/", "echo"),
    ("/v1/operators/", "0x" + "5f" * 20),
    ("/v1/keys/", "0x5f"),
    ("/v1/receipts?limit=", "20"),
    ("/v1/receipts?after=", "0x" + "5f" * 32),
    ("/v1/epochs/1?first_receipt=", "0"),
)


@dataclass(frozen=True)
class Case:
    """One request."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)


class Door:
    """The application, asked without a socket."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = (b"authorization", f"Bearer {key}".encode())

    def parsers(self) -> tuple[Parser, ...]:
        """Return what reads from a stranger by HTTP."""
        return (
            Parser("chat bodies", self._a_chat, self._knock, 5),
            Parser("completion bodies", self._a_text, self._knock, 3),
            Parser("account bodies", self._a_call, self._knock, 3),
            Parser("paths, queries, keys", self._a_place, self._knock, 3),
        )

    def check_money(self) -> None:
        """Raise AssertionError unless no job runs, nothing is held and the books add up."""
        self._server.quiet()
        report = self._server.read(audit_books)
        assert report.findings == (), report.findings
        assert self._server.read(_held) == 0

    def _a_chat(self, mutator: Mutator) -> Case:
        body = mutator.json_of(mutator.chance.choice(CHATS))
        return Case("POST", "/v1/chat/completions", body, (self._key,))

    def _a_text(self, mutator: Mutator) -> Case:
        body = mutator.json_of(mutator.chance.choice(TEXTS_TO_CONTINUE))
        return Case("POST", "/v1/completions", body, (self._key,))

    def _a_call(self, mutator: Mutator) -> Case:
        method, path, body = mutator.chance.choice(ACCOUNT_CALLS)
        return Case(method, path, mutator.json_of(body), (self._key,))

    def _a_place(self, mutator: Mutator) -> Case:
        before, value = mutator.chance.choice(PLACES)
        damaged = mutator.chance.choice(TEXTS) if mutator.chance.random() < 0.3 else mutator.text_of(value)
        header = self._key
        if mutator.chance.random() < 0.2:
            header = (b"authorization", mutator.bytes_of(self._key[1]))
        return Case("GET", before + quote(damaged[:2000], safe="/=&?"), b"", (header,))

    def _knock(self, case: Case) -> bool:
        """Ask; what is taken is charged for exactly, and what is refused says why in the one form."""
        answer = self._server.do(ask(self._server.app, case))
        if answer.status < 300:
            _check_taken(case, bytes(answer.body))
            return True
        if answer.status == REDIRECT:
            return False
        told = msgspec.json.decode(bytes(answer.body), type=dict[str, dict[str, Any]])["error"]
        assert isinstance(told["message"], str)
        assert told.keys() == {"message", "type", "param", "code"}
        if answer.status == 503:
            assert told["code"] in OUT_OF_ORDER, told
        else:
            assert answer.status in REFUSALS, (answer.status, told)
        return False


def _held(session: Session) -> int:
    return int(session.execute(select(func.sum(Account.held))).scalar_one() or 0)


def _check_taken(case: Case, body: bytes) -> None:
    if not case.target.endswith("/completions"):
        return
    if body.startswith(b"data: "):
        assert body.endswith(b"data: [DONE]\n\n") or b'data: {"error":' in body, body[-200:]
        return
    told = msgspec.json.decode(body)
    charge, usage = int(told["tallystick"]["charge_nano_usd"]), told["usage"]
    assert charge == PRICE * usage["total_tokens"], told


async def ask(app: Any, case: Case) -> Answer:
    """Return the application's answer; the reader stays until it has all of it."""
    answer, has_ended = Answer(), asyncio.Event()
    waiting: list[Message] = [{"type": "http.request", "body": case.body, "more_body": False}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await has_ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
        else:
            answer.body += message.get("body", b"")

    path, _, query = case.target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": case.method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"content-length", str(len(case.body)).encode()), *case.headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    try:
        async with asyncio.timeout(20):
            await app(scope, receive, send)
    finally:
        has_ended.set()
    return answer


@contextlib.contextmanager
def an_open_door() -> Iterator[Door]:
    """Give the application of a coordinator of its own."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tallystick-fuzz-") as folder,
            a_place() as place,
            a_server(place, Path(folder) / "coordinator") as server,
        ):
            with server.http() as client:
                told = client.post("/v1/accounts", json={"email": "fuzz@example.com"}).json()
            yield Door(server, told["api_key"])
    finally:
        structlog.configure(**before)
