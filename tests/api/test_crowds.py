"""One address cannot take all connections: sockets, requests behind a proxy, and nodes' websockets."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import aiohttp
import pytest

from tests.api.test_slow_clients import a_request, error_code, line_to, rest_of
from tests.api.test_suspensions import until
from tests.support.servers import Place, Server, a_server

MOST = 3
STRANGER, OTHER = "198.51.100.1", "203.0.113.7"


@pytest.fixture(scope="module")
def direct(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A coordinator that everybody connects to."""
    folder = tmp_path_factory.mktemp("direct")
    with a_server(place, folder, with_node=False, max_connections_per_address=MOST) as server:
        yield server


@pytest.fixture(scope="module")
def behind(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A coordinator behind a proxy, which is this machine."""
    limits = {"max_connections_per_address": MOST, "trusted_proxies": ("127.0.0.1",)}
    with a_server(place, tmp_path_factory.mktemp("behind"), with_node=False, **limits) as server:
        yield server


def test_an_address_has_so_many_connections_and_no_more(direct: Server) -> None:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(line_to(direct)) for _ in range(MOST)]
        until(lambda: is_full(direct))
        with line_to(direct) as refused:
            assert error_code(rest_of(refused)) == "too_many_connections"
        lines.pop().close()
        until(lambda: not is_full(direct))
        with direct.http() as client:
            assert client.get("/healthz").status_code == 200
    until(lambda: len(direct.parts.crowd) == 0)


def test_a_websocket_counts_as_one_connection_of_its_address(direct: Server) -> None:
    async def open_many() -> list[int]:
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            url = f"{direct.url}/v1/nodes/connect"
            for _ in range(MOST):
                await stack.enter_async_context(session.ws_connect(url))
            with contextlib.suppress(aiohttp.ClientResponseError):
                async with session.ws_connect(url):
                    return [101]
            return [429]

    assert asyncio.run(open_many()) == [429]
    until(lambda: len(direct.parts.crowd) == 0)


def is_full(server: Server) -> bool:
    """Return whether the address of these tests has as many connections as it may."""
    return server.parts.crowd._open["127.0.0.1"] >= MOST


def begun(server: Server, address: str) -> socket.socket:
    """Return a connection with a request of `address` whose body does not come."""
    head = a_request(b"", "tsk_nothing", announced=10, target="/v1/accounts/verify")
    line = line_to(server)
    line.sendall(head.replace(b"host: x", b"host: x\r\nx-forwarded-for: " + address.encode()))
    return line


def status(server: Server, address: str) -> int:
    """Return how a request of `address` is answered."""
    with server.http() as client:
        return client.get("/healthz", headers={"x-forwarded-for": address}).status_code


def test_behind_a_proxy_the_address_that_it_saw_counts(behind: Server) -> None:
    lines = [begun(behind, STRANGER) for _ in range(MOST)]
    until(lambda: status(behind, STRANGER) == 429)
    assert status(behind, OTHER) == 200
    for line in lines:
        line.close()
    until(lambda: status(behind, STRANGER) == 200)
    until(lambda: len(behind.parts.crowd) == 0)


def test_nodes_behind_a_proxy_are_counted_by_their_own_address(behind: Server) -> None:
    async def open_many() -> list[bool]:
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            opened = []
            for address in (*[STRANGER] * (MOST + 1), OTHER):
                connecting = session.ws_connect(
                    f"{behind.url}/v1/nodes/connect", headers={"x-forwarded-for": address}
                )
                try:
                    await stack.enter_async_context(connecting)
                    opened.append(True)
                except aiohttp.WSServerHandshakeError:
                    opened.append(False)
            return opened

    assert asyncio.run(open_many()) == [*[True] * MOST, False, True]
    until(lambda: len(behind.parts.crowd) == 0)
