"""Streams: as the official client reads them, as bytes, and as they end when something goes wrong."""

import json
import socket
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from marketplace.storage.tables import JobRow, ReceiptRow
from tests.api.asking import says
from tests.support.acting import BREAK_AT_ONCE, BREAK_MIDWAY, DRIP, LIKELY, REFUSE, WITHHELD
from tests.support.hubs import eventually
from tests.support.servers import Server


def body(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": says(text), "stream": True} | options


def events(lines: list[str]) -> list[str]:
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def jobs_of(server: Server, account_id: str) -> list[JobRow]:
    return server.read(lambda session: list(session.query(JobRow).filter_by(account_id=account_id)))


def test_the_pieces_are_the_answer(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="echo", messages=says("some words"), stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "some words"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert "usage" not in chunks[0].to_dict()
    proof = chunks[-1].to_dict()["tallystick"]
    assert isinstance(proof, dict)
    assert int(proof["charge_nano_usd"]) > 0


def test_the_usage_comes_last_and_alone(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo", messages=says("hello"), stream=True, stream_options={"include_usage": True}
        )
    )
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 6
    assert all(chunk.to_dict()["usage"] is None for chunk in chunks[:-1])
    assert all(chunk.choices for chunk in chunks[:-1])


def test_a_stream_is_events_with_an_end(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/chat/completions", json=body("hello")) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-tallystick-job"].startswith("0x")
        raw = answer.read().decode()
    assert raw.endswith("data: [DONE]\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in raw.split("\n\n")[:-1])


def test_streamed_likelihoods_are_those_of_their_piece(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo", messages=says(LIKELY), stream=True, logprobs=True, top_logprobs=1
        )
    )
    shown = [
        one.token
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
        for one in chunk.choices[0].logprobs.content or []
    ]
    assert shown == ["a", "b", "c"]


def test_a_failure_in_the_middle_is_an_error_and_no_end(
    http: httpx.Client, server: Server, consumer: dict[str, Any]
) -> None:
    with http.stream("POST", "/v1/chat/completions", json=body(BREAK_MIDWAY)) as answer:
        assert answer.status_code == 200
        told = events(list(answer.iter_lines()))
    assert "[DONE]" not in told
    problem = json.loads(told[-1])["error"]
    assert (problem["type"], problem["code"]) == ("service_unavailable", "nodes_failed")
    assert "Nothing was charged" in problem["message"]
    server.quiet()
    account = server.account(consumer["account_id"])
    assert (account.spent, account.held) == (0, 0)


def test_a_failure_in_the_middle_raises_in_the_client(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="echo", messages=says(BREAK_MIDWAY), stream=True)
    got = []
    with pytest.raises(openai.APIError, match="Nothing was charged"):
        got += [chunk.choices[0].delta.content for chunk in stream]
    with pytest.raises(openai.InternalServerError, match="Nothing was charged"):
        client.chat.completions.create(model="echo", messages=says(BREAK_MIDWAY))


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_fails_at_once_answers_with_a_status(
    http: httpx.Client, server: Server, consumer: dict[str, Any], stream: bool
) -> None:
    answer = http.post("/v1/chat/completions", json=body(BREAK_AT_ONCE, stream=stream))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["code"] == "nodes_failed"
    assert server.account(consumer["account_id"]).spent == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_the_nodes_refuse_is_the_callers_to_change(
    http: httpx.Client, server: Server, consumer: dict[str, Any], stream: bool
) -> None:
    answer = http.post("/v1/chat/completions", json=body(REFUSE, stream=stream))
    problem = answer.json()["error"]
    assert (answer.status_code, problem["code"]) == (400, "refused_by_nodes")
    assert "change its parameters" in problem["message"]
    assert "10.0.0.7" not in answer.text
    assert server.account(consumer["account_id"]).spent == 0
    assert http.post("/v1/chat/completions", json=body("hello")).status_code == 200


def test_a_reader_that_leaves_stops_the_node_and_pays_for_what_was_made(
    http: httpx.Client, server: Server, consumer: dict[str, Any]
) -> None:
    with http.stream("POST", "/v1/chat/completions", json=body(DRIP, max_tokens=2000)) as answer:
        lines = answer.iter_lines()
        got = [next(lines) for _ in range(12)]
        job_id = bytes.fromhex(answer.headers["x-tallystick-job"][2:])
    assert any('"content":"d"' in line for line in got)
    server.do(eventually(lambda: job_id in server.acts.stopped, 10))
    server.quiet()
    (job,) = jobs_of(server, consumer["account_id"])
    (receipt,) = server.read(lambda session: list(session.query(ReceiptRow).filter_by(job_id=job_id)))
    account = server.account(consumer["account_id"])
    assert job.state == "done"
    made = (job.charge - job.prompt_tokens * 300) // 300
    assert 0 < made < 2000
    assert (account.spent, account.held) == (job.charge, 0)
    assert receipt.charge == job.charge


@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_that_leaves_before_the_first_token_pays_nothing(
    server: Server, consumer: dict[str, Any], stream: bool
) -> None:
    before = len(server.acts.jobs)
    wanted = json.dumps(body(WITHHELD, stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {consumer['api_key']}"
    head += f"\r\nContent-Type: application/json\r\nContent-Length: {len(wanted)}\r\n\r\n"
    place = httpx.URL(server.url)
    with socket.create_connection((place.host, place.port or 80)) as reader:
        reader.sendall(head.encode() + wanted)
        server.do(eventually(lambda: len(server.acts.jobs) > before, 20))
    job_id = server.acts.jobs[before].job_id
    server.do(eventually(lambda: job_id in server.acts.stopped, 20))
    server.quiet()
    (job,) = jobs_of(server, consumer["account_id"])
    assert (job.id, job.charge) == (job_id, 0)
    assert server.read(lambda session: session.query(ReceiptRow).filter_by(job_id=job_id).count()) == 0
    account = server.account(consumer["account_id"])
    assert (account.spent, account.held) == (0, 0)


def test_a_reader_that_leaves_a_whole_answer_stops_the_node_too(
    server: Server, consumer: dict[str, Any]
) -> None:
    before = len(server.acts.jobs)
    with server.http(consumer["api_key"]) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=body(DRIP, stream=False, max_tokens=5000), timeout=1)
    job_id = server.acts.jobs[before].job_id
    server.do(eventually(lambda: job_id in server.acts.stopped, 10))
    server.quiet()
    account = server.account(consumer["account_id"])
    assert account.held == 0
    assert 0 < account.spent < 5000 * 300
