"""Absurd values in every field of every route: always an answer in our form, never a failure of the server's.

The routes come from the application and the fields from the types that bodies are read into: a route or a
field that is added is in the table, or `test_no_route_is_left_out` names it.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from starlette.routing import Route

from marketplace.api.account.keys import KeyBody
from marketplace.api.account.money import ConsentBody
from marketplace.api.account.sign_up import EmailBody, SignInBody, TokenBody
from marketplace.api.openai.requests import ChatBody, TextBody
from tallystick.signin import SignIn, personal_digest
from tests.api.asking import says
from tests.api.conftest import new_consumer
from tests.support.nodes import key_of
from tests.support.servers import Server

NUMBERS = ["9223372036854775807", "9223372036854775808", "18446744073709551616", "-1", "-9223372036854775809"]
NUMBERS += ["1e400", "-1e400", "1e-400", "1.5", "NaN", "Infinity", "0x10", "1" * 10_000, "-0"]
WORDS = [
    "NaN",
    "1e400",
    "-1",
    "٣",
    "\u0000",
    "9" * 10_000,
    "0x" + "f" * 10_000,
    "\U0001f600",
    "",
    " ",
    "x" * 70_000,
]
RAW = [
    *(number.encode() for number in NUMBERS),
    *(f'"{number}"'.encode() for number in NUMBERS[:6]),
    *(json.dumps(word).encode() for word in WORDS),
    *(b"null", b"true", b"{}", b"[]", b'{"": null}', b"[null]", b'"\\ud800"', b'"\xff"', b'["\xff"]'),
    *(b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
]
CHAT: dict[str, Any] = {"model": "echo", "messages": says("hello"), "max_tokens": 2}
BODIES: dict[tuple[str, str], tuple[type, dict[str, Any]]] = {
    ("POST", "/v1/chat/completions"): (ChatBody, CHAT),
    ("POST", "/v1/completions"): (TextBody, {"model": "echo", "prompt": "hello", "max_tokens": 2}),
    ("POST", "/v1/keys"): (KeyBody, {}),
    ("PATCH", "/v1/keys/{key_id}"): (KeyBody, {}),
    ("POST", "/v1/consents"): (ConsentBody, {"spent": "0", "signature": "0x" + "11" * 65}),
    ("POST", "/v1/accounts"): (EmailBody, {"email": "somebody@example.com"}),
    ("POST", "/v1/accounts/verify"): (TokenBody, {"token": "tsv_" + "A" * 43}),
    ("POST", "/v1/sessions/email"): (EmailBody, {"email": "somebody@example.com"}),
    ("POST", "/v1/sessions"): (SignInBody, {"message": "", "signature": "0x" + "11" * 65}),
}
NO_BODY = {("DELETE", "/v1/keys/{key_id}"), ("DELETE", "/v1/sessions")}
NESTED = {
    "/v1/chat/completions": (
        ("tallystick", "max_input_price"),
        ("stream_options", "include_usage"),
        ("logit_bias", "5"),
        ("response_format", "type"),
    )
}
QUERIES = {
    "/v1/receipts": ("limit", "after"),
    "/v1/epochs/0": ("first_receipt", "first_row"),
    "/verify": ("token",),
}
PLACES = ["%00", "%ff", "%F0%9F%98%80", "..%2f..%2fkeys", "0x" + "00" * 32, "0x" + "f" * 3000, *NUMBERS[:12]]


@pytest.fixture(scope="module")
def asking(server: Server) -> "Asking":
    """Somebody with an account of its own."""
    return Asking(server, new_consumer(server)["api_key"])


class Asking:
    """Asks the application itself: thousands of requests, and no socket between."""

    def __init__(self, server: Server, api_key: str) -> None:
        self._server = server
        self._key = {"authorization": f"Bearer {api_key}"}

    def each(self, method: str, asked: Iterable[tuple[str, bytes | None, dict[str, bytes]]]) -> None:
        """Send requests (path, body, headers) one after the other, and check every answer."""
        self._server.do(self._each(method, asked))

    async def _each(self, method: str, asked: Iterable[tuple[str, bytes | None, dict[str, bytes]]]) -> None:
        door = httpx.ASGITransport(self._server.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=door, base_url=self._server.url, headers=self._key) as client:
            for path, content, headers in asked:
                answer = await client.request(method, path, content=content, headers=headers)
                check(answer, (path, content, headers))


def check(answer: httpx.Response, what: object) -> None:
    """Fail unless the answer is a good one, or an error in the one form that there is."""
    shown = f"{str(what)[:300]}: {answer.status_code} {answer.text[:300]}"
    if answer.status_code < 400:
        return
    error = answer.json().get("error")
    assert error is not None, shown
    assert set(error) == {"message", "type", "param", "code"}, shown
    assert answer.status_code < 500 or error["code"] == "no_node", shown
    assert len(answer.content) < 8192, shown


def routes(server: Server) -> set[tuple[str, str]]:
    return {
        (method, route.path)
        for route in server.app.router.routes
        if isinstance(route, Route)
        for method in route.methods or {"POST"}
        if method != "HEAD"
    }


def test_no_route_is_left_out(server: Server) -> None:
    asked = {one for one in routes(server) if one[0] != "GET"}
    assert asked == BODIES.keys() | NO_BODY


def raw_bodies(kind: type, good: dict[str, Any], nested: Iterable[tuple[str, ...]]) -> Iterator[list[bytes]]:
    """Give, field by field, the good body with each absurd value in that field."""
    for path in [*((one.encode_name,) for one in msgspec.structs.fields(kind)), *nested]:
        slot: Any = "@here"
        for name in reversed(path):
            slot = {name: slot}
        template = json.dumps(good | slot).encode()
        yield [template.replace(b'"@here"', value) for value in RAW]


@pytest.mark.parametrize(("method", "path"), BODIES, ids=["".join(one) for one in BODIES])
def test_absurd_fields(asking: Asking, method: str, path: str) -> None:
    kind, good = BODIES[method, path]
    url = path.replace("{key_id}", "key_1")
    for contents in (*raw_bodies(kind, good, NESTED.get(path, ())), [*RAW, b" " * 10_000_000]):
        asking.each(method, [(url, content, {}) for content in contents])


def test_absurd_places(asking: Asking, server: Server) -> None:
    for method, path in routes(server):
        before, brace, rest = path.partition("{")
        if brace:
            after = rest.partition("}")[2]
            content = b"{}" if method in ("POST", "PATCH") else None
            asking.each(method, [(before + place + after, content, {}) for place in PLACES])


def test_absurd_queries(asking: Asking) -> None:
    for path, names in QUERIES.items():
        for name in names:
            values = [*PLACES, "%s", "", "x" * 3000]
            asking.each("GET", [(f"{path}?{name}={value}&{name}={value}", None, {}) for value in values])


def sign_ins(good: str) -> Iterator[str]:
    """Give a good message with each absurd value in each of its lines."""
    lines = good.split("\n")
    times = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01"]
    for number, line in enumerate(lines):
        name, colon, _ = line.partition(": ")
        for value in [*NUMBERS, *WORDS, *times]:
            yield "\n".join([*lines[:number], name + colon + value, *lines[number + 1 :]])


def test_absurd_sign_ins(asking: Asking, server: Server) -> None:
    now = datetime.now(UTC)
    place = server.place.deployment
    good = SignIn(
        domain=server.url.removeprefix("http://"),
        address=place.owner,
        uri=server.url,
        chain_id=place.chain_id,
        nonce="0" * 32,
        issued_at=now,
        expires_at=now + timedelta(minutes=5),
        not_before=now,
    )
    signed = sign_text(good.text())
    bodies = [{"message": message, "signature": sign_text(message)} for message in sign_ins(good.text())]
    bodies += [{"message": good.text(), "signature": one} for one in (signed[:-2], signed + "00", "0x", "1b")]
    asking.each("POST", [("/v1/sessions", json.dumps(body).encode(), {}) for body in bodies])


def sign_text(text: str) -> str:
    return "0x" + key_of(1).sign_digest(personal_digest(text)).hex()


def test_absurd_headers(asking: Asking) -> None:
    values = [
        *(number.encode() for number in NUMBERS),
        b"\xff",
        b"Bearer " + b"x" * 8000,
        b"bytes=9-0",
        b'W/"',
    ]
    for path in ("/v1/market", "/v1/epochs/0", "/v1/balance", "/v1/nowhere"):
        for name in (
            "authorization",
            "accept",
            "range",
            "if-none-match",
            "x-forwarded-for",
            "content-length",
        ):
            asking.each("GET", [(path, None, {name: value}) for value in values])
