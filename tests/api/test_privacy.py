"""Logs say what happened, and neither what was said nor who may say it."""

import io
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import structlog

from marketplace.logs import configure_logs
from tests.api.asking import says
from tests.api.conftest import new_consumer
from tests.support.acting import BREAK_MIDWAY
from tests.support.servers import Place, Server, a_server


@contextmanager
def captured(
    monkeypatch: pytest.MonkeyPatch, level: str = "info", log_format: str = "json"
) -> Iterator[io.StringIO]:
    """Everything that is logged meanwhile."""
    said, root, before = io.StringIO(), logging.getLogger(), structlog.get_config()
    handlers, least = root.handlers[:], root.level
    root.handlers.clear()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", said)
        configure_logs(level, log_format)
    # A logger that remembered this configuration would keep it for the tests that follow.
    structlog.configure(**(structlog.get_config() | {"cache_logger_on_first_use": False}))
    try:
        yield said
    finally:
        structlog.configure(**before)
        root.handlers[:], root.level = handlers, least


@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_prompt_and_no_key_is_logged(
    place: Place, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    marker = "marker-" + secrets.token_hex(8)
    with captured(monkeypatch, level) as said, a_server(place, tmp_path / "coordinator") as server:
        consumer = new_consumer(server)
        with server.http(consumer["api_key"]) as client:
            body = {"model": "echo", "messages": says(marker)}
            assert marker in client.post("/v1/chat/completions", json=body).text
            with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
                assert marker in answer.read().decode()
            client.post("/v1/completions", json={"model": "echo", "prompt": marker})
            client.post("/v1/chat/completions", json=body | {"stop": marker, "n": marker})
            client.post("/v1/chat/completions", content=f'{{"model": "{marker}" nonsense')
            client.post(
                "/v1/chat/completions", json=body | {"messages": [*says(marker), *says(BREAK_MIDWAY)]}
            )
            client.get("/v1/models/" + marker, params={"api_key": consumer["api_key"]})
            made = client.post("/v1/keys", json={"name": marker}).json()
        with server.http("tsk_" + marker) as client:
            assert client.get("/v1/balance").status_code == 401
        with server.http() as client:
            client.post("/v1/accounts/verify", json={"token": "tsv_" + marker})
            client.post("/v1/sessions", json={"message": marker, "signature": "0x00"})
        server.quiet()
    text = said.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    routes = [line["route"] for line in lines if line["event"] == "request"]
    assert routes.count("/v1/chat/completions") == 5, text
    assert marker not in text
    for secret in (consumer["api_key"], consumer["token"], made["key"]):
        assert secret not in text
        assert secret[12:] not in text
    assert "user: " not in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_bug_is_recorded_without_what_was_said_and_tells_the_caller_nothing(
    place: Place, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    marker = "marker-" + secrets.token_hex(8)

    def broken(*_: Any) -> None:
        raise RuntimeError("the inside")

    with (
        captured(monkeypatch, "debug", log_format) as said,
        a_server(place, tmp_path / "coordinator") as server,
    ):
        consumer = new_consumer(server)
        with monkeypatch.context() as patched, server.http(consumer["api_key"]) as client:
            patched.setattr(server.parts.market, "submit", broken)
            answer = client.post("/v1/chat/completions", json={"model": "echo", "messages": says(marker)})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "the inside" not in answer.text
    text = said.getvalue()
    assert "request_broke" in text
    assert answer.headers["x-request-id"] in text
    assert "RuntimeError: the inside" in text
    # A traceback that shows local variables would show these.
    assert marker not in text
    assert consumer["api_key"] not in text


def test_answers_with_secrets_are_not_kept_by_caches(server: Server, consumer: dict[str, Any]) -> None:
    with server.http(consumer["api_key"]) as client:
        for answer in (
            client.get("/v1/balance"),
            client.post("/v1/keys", json={}),
            client.get("/v1/receipts"),
        ):
            assert isinstance(answer, httpx.Response)
            assert answer.headers["cache-control"] == "no-store"
