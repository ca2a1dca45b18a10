"""Clients that are slow, rude or gone, over a real socket: they keep nothing, and nobody pays wrongly."""

import concurrent.futures
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from openai import APIError, AuthenticationError, OpenAI

from marketplace.services.audit_books import audit_books
from tests.api.asking import says
from tests.api.conftest import new_consumer
from tests.support.acting import DRIP, WITHHELD
from tests.support.hubs import eventually
from tests.support.servers import Place, Server, a_server

CHAT = "/v1/chat/completions"
REQUEST_SECONDS, WRITE_SECONDS = 1.0, 1.0


@pytest.fixture(scope="module")
def hasty(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A coordinator that waits for nobody; at the end its books add up and nothing is held."""
    folder = tmp_path_factory.mktemp("hasty")
    limits = {"request_seconds": REQUEST_SECONDS, "write_seconds": WRITE_SECONDS}
    with a_server(place, folder, **limits) as server:
        yield server
        server.quiet()
        assert server.read(audit_books).findings == ()


@pytest.fixture
def visitor(hasty: Server) -> dict[str, Any]:
    """An account there."""
    return new_consumer(hasty)


def line_to(server: Server, *, small: bool = False) -> socket.socket:
    """Return a bare connection; a `small` one takes little before it is read."""
    line = socket.socket()
    if small:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    line.settimeout(20)
    line.connect(("127.0.0.1", server.parts.settings.port))
    return line


def a_request(body: bytes, key: str, *, announced: int | None = None, target: str = CHAT) -> bytes:
    """Return a whole request, or one that announces more than it brings."""
    length = len(body) if announced is None else announced
    head = (
        f"POST {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    return head.encode() + body


def a_body(text: str, **options: Any) -> bytes:
    """Return a chat's body."""
    return json.dumps({"model": "echo", "messages": says(text)} | options).encode()


def rest_of(line: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    parts = []
    while part := line.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def error_code(answer: bytes) -> str:
    """Return the code in an error's body."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def drip_to(line: socket.socket, pieces: Iterator[bytes]) -> bytes:
    """Send a piece now and then until the other side answers; return the answer."""
    line.settimeout(0.1)
    for piece in pieces:
        try:
            line.sendall(piece)
            if answer := line.recv(65_536):
                return answer
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    return b""


def test_a_connection_that_says_nothing_is_closed(hasty: Server) -> None:
    with line_to(hasty) as line:
        answer = rest_of(line)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert error_code(answer) == "request_timeout"


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(hasty: Server) -> None:
    with line_to(hasty) as line:
        answer = drip_to(line, (bytes([byte]) for byte in b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 100))
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(hasty: Server, visitor: dict[str, Any]) -> None:
    body = a_body("hello")
    with line_to(hasty) as line:
        line.sendall(a_request(b"", visitor["api_key"], announced=len(body) + 400))
        answer = drip_to(line, (bytes([byte]) for byte in body + b" " * 100))
    assert answer.startswith(b"HTTP/1.1 408 ")
    hasty.quiet()
    account = hasty.account(visitor["account_id"])
    assert (account.spent, account.held) == (0, 0)


def test_blank_lines_keep_no_connection_open(hasty: Server) -> None:
    with line_to(hasty) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answered = b""
        while not answered.endswith(b"}"):
            answered += line.recv(65_536)
        assert answered.startswith(b"HTTP/1.1 200 ")
        answer = drip_to(line, (b"\r\n" for _ in range(400)))
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("piece", [b"a" * 50_000, b"x: y\r\n" * 8_000])
def test_an_endless_head_is_refused(hasty: Server, piece: bytes) -> None:
    with line_to(hasty) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\n")
        answer = drip_to(line, (piece for _ in range(100)))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_ten_megabytes_are_refused_without_being_kept(hasty: Server, visitor: dict[str, Any]) -> None:
    for announced in (True, False):
        content: Any = b" " * 10_000_000
        with hasty.http(visitor["api_key"]) as client:
            try:
                answer = client.post(CHAT, content=content if announced else iter([content[:65_536]] * 150))
            except httpx.WriteError:
                continue  # it closed before all of it was sent
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_bug(
    hasty: Server, visitor: dict[str, Any]
) -> None:
    with line_to(hasty) as line:
        line.sendall(a_request(b'{"model": ', visitor["api_key"], announced=500))
    with hasty.http() as client:
        deadline = time.monotonic() + 20
        while 'status="499"' not in client.get("/metrics").text:
            assert time.monotonic() < deadline
        assert 'status="500"' not in client.get("/metrics").text


def test_a_reader_at_a_byte_now_and_then_is_given_up_and_pays_for_its_answer(
    hasty: Server, visitor: dict[str, Any]
) -> None:
    """Its answer is larger than what sockets hold; others are served meanwhile."""
    text = "\1" * 16_000  # six bytes each in JSON
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(line_to(hasty, small=True)) for _ in range(3)]
        for line in lines:
            line.sendall(a_request(a_body(text, stream=True, max_tokens=16_100), visitor["api_key"]))
        with hasty.openai(visitor["api_key"]) as client:
            answer = client.chat.completions.create(model="echo", messages=says("hello"))
        assert answer.choices[0].message.content == "hello"
        got = [sips_of(hasty, line) for line in lines]
    assert all(b"[DONE]" not in one for one in got)
    hasty.quiet()
    account = hasty.account(visitor["account_id"])
    assert (account.held, account.spent) == (0, 3 * price_of(text) + price_of("hello"))


def price_of(text: str) -> int:
    """Return what an echo of `text` costs: the prompt around it, and the end token."""
    return 300 * (2 * len(text) + len("user: \nassistant: ") + 1)


def sips_of(server: Server, line: socket.socket) -> bytes:
    """Return what comes in sips until the other side gives up, and what was on its way then."""
    client = line.getsockname()
    got = b""
    deadline = time.monotonic() + 30
    while is_open(server, client):
        assert time.monotonic() < deadline, "the connection is still there"
        got += line.recv(1)
        time.sleep(0.05)
    with contextlib.suppress(ConnectionError):
        got += rest_of(line)
    return got


def is_open(server: Server, client: Any) -> bool:
    """Say whether the server still has its end of a client's connection."""
    ends = psutil.Process().net_connections("tcp4")
    return any(one.raddr == client and one.laddr.port == server.parts.settings.port for one in ends)


def test_a_stream_ends_when_its_key_is_revoked_and_costs_what_was_made_by_then(
    hasty: Server, visitor: dict[str, Any]
) -> None:
    with (
        hasty.http(visitor["token"]) as owner,
        OpenAI(base_url=f"{hasty.url}/v1", api_key=visitor["api_key"], max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model="echo", messages=says(DRIP), stream=True, max_tokens=20_000
        )
        pieces = [next(iter(stream)) for _ in range(5)]
        assert owner.delete(f"/v1/keys/{visitor['key']['id']}").status_code == 200
        with pytest.raises(APIError) as ended:
            pieces += list(stream)
        with pytest.raises(AuthenticationError) as refused:
            client.chat.completions.create(model="echo", messages=says("hello"))
    hasty.quiet()
    assert ended.value.code == refused.value.code == "revoked_api_key"
    assert all(one.choices[0].finish_reason is None for one in pieces)
    account = hasty.account(visitor["account_id"])
    assert account.held == 0
    paid_tokens = account.spent / 300 - len("user: drip\nassistant: ")
    assert len(pieces) - 1 <= paid_tokens < 20_000  # the first piece has the role


def test_an_answer_at_once_ends_too_when_its_key_is_revoked(hasty: Server, visitor: dict[str, Any]) -> None:
    with (
        hasty.http(visitor["token"]) as owner,
        hasty.http(visitor["api_key"]) as client,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(client.post, CHAT, content=a_body(DRIP, max_tokens=20_000))
        hasty.do(eventually(lambda: hasty.parts.market.running == 1, 10))
        assert owner.delete(f"/v1/keys/{visitor['key']['id']}").status_code == 200
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "revoked_api_key")
    hasty.quiet()
    assert hasty.account(visitor["account_id"]).held == 0


def test_two_clients_on_one_key_at_its_cap_share_what_is_left(hasty: Server, visitor: dict[str, Any]) -> None:
    """The cap covers one of their answers: one is served, the other told so, and the next too."""
    hasty.place.background.loop.call_soon_threadsafe(hasty.acts.allowed.clear)
    with hasty.http(visitor["api_key"]) as owner:
        terms = {"scope": "inference", "cap_usd": "0.0000150"}  # 50 tokens
        key = owner.post("/v1/keys", json=terms).json()["key"]
    body = {"model": "echo", "messages": says(WITHHELD), "max_tokens": 10}
    with hasty.http(key) as one, hasty.http(key) as other:
        first = one.build_request("POST", CHAT, json=body | {"stream": True})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(one.send, first)
            hasty.do(eventually(lambda: hasty.parts.market.running == 1, 10))
            refused = other.post(CHAT, json=body)
            hasty.place.background.loop.call_soon_threadsafe(hasty.acts.allowed.set)
            served = waiting.result()
            hasty.place.background.loop.call_soon_threadsafe(hasty.acts.allowed.clear)
        after = other.post(CHAT, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "key_cap_reached")
    assert served.status_code == 200
    assert served.text.endswith("data: [DONE]\n\n")
    assert (after.status_code, after.json()["error"]["code"]) == (402, "key_cap_reached")
    hasty.quiet()
    account = hasty.account(visitor["account_id"])
    assert (account.held, account.spent) == (0, (len("user: withheld\nassistant: ") + 2) * 300)
