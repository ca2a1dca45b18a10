"""One coordinator for all tests here, and consumers to ask it."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from openai import OpenAI

from tests.support.servers import Place, Server, a_place, a_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> Iterator[None]:
    """The coordinator logs from its own thread, into whatever a test captures; test_privacy looks at logs."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """The contracts on a chain for all tests here, with one staked node."""
    with a_place() as place:
        yield place


@pytest.fixture(scope="session")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A coordinator with one node, shared: tests use accounts of their own."""
    with a_server(place, tmp_path_factory.mktemp("coordinator")) as server:
        yield server


@pytest.fixture
def consumer(server: Server) -> dict[str, Any]:
    """A new account with a dollar of credit: `account_id`, `api_key`, `token`."""
    # What another test has let go on must be withheld again.
    server.place.background.loop.call_soon_threadsafe(server.acts.allowed.clear)
    return new_consumer(server)


@pytest.fixture
def client(server: Server, consumer: dict[str, Any]) -> Iterator[OpenAI]:
    """The official Python client of that account."""
    with server.openai(consumer["api_key"]) as client:
        yield client


@pytest.fixture
def http(server: Server, consumer: dict[str, Any]) -> Iterator[httpx.Client]:
    """A plain client of that account."""
    with server.http(consumer["api_key"]) as client:
        yield client


def new_consumer(server: Server) -> dict[str, Any]:
    """Open an account by email, at once and with its credit."""
    with server.http() as client:
        answer = client.post("/v1/accounts", json={"email": f"reader-{next(_numbers)}@example.com"})
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a coordinator of the test's own."""
    return tmp_path / "coordinator"
