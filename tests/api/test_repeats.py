"""The same request twice under one `Idempotency-Key`: the work is done, and paid for, once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import OpenAI

from marketplace.domain.errors import Unavailable
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.repeats import DAY_MS, Repeats
from marketplace.storage.tables import JobRow, RepeatKey
from tests.api.asking import ask, says
from tests.api.conftest import new_consumer
from tests.support.acting import BREAK_AT_ONCE, DRIP, WITHHELD
from tests.support.hubs import eventually
from tests.support.servers import Server

CHAT = "/v1/chat/completions"


def body(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": says(text)} | options


def under(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def jobs_of(server: Server, consumer: dict[str, Any]) -> list[JobRow]:
    return server.read(lambda s: list(s.query(JobRow).filter_by(account_id=consumer["account_id"])))


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_is_told_what_the_first_was_charged(
    http: httpx.Client, server: Server, consumer: dict[str, Any], path: str, stream: bool
) -> None:
    asked = {"model": "echo", "stream": stream} | (
        {"messages": says("hi")} if path == CHAT else {"prompt": "hi"}
    )
    assert http.post(path, json=asked, headers=under("one")).status_code == 200
    server.quiet()
    spent = server.account(consumer["account_id"]).spent
    again = http.post(path, json=asked, headers=under("one"))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_key_used")
    assert again.headers["x-should-retry"] == "false"
    (receipt,) = http.get("/v1/receipts").json()["data"]
    assert receipt["id"] in again.json()["error"]["message"]
    assert server.account(consumer["account_id"]).spent == spent > 0
    assert len(jobs_of(server, consumer)) == 1


def test_the_official_client_does_not_try_a_finished_call_again(
    server: Server, consumer: dict[str, Any]
) -> None:
    seen: list[int] = []
    hooks = {"response": [lambda answer: seen.append(answer.status_code)]}
    with server.openai(
        consumer["api_key"], max_retries=3, http_client=httpx.Client(event_hooks=hooks, trust_env=False)
    ) as client:
        ask(client, "hello", extra_headers=under("twice"))
        with pytest.raises(Exception, match="Its answer is not kept"):
            ask(client, "hello", extra_headers=under("twice"))
    assert seen == [200, 409]


def test_another_body_under_the_same_key_is_refused(http: httpx.Client, server: Server) -> None:
    http.post(CHAT, json=body("hello"), headers=under("k"))
    for other in (body("hello!"), body("hello", stream=True)):
        answer = http.post(CHAT, json=other, headers=under("k"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
    with server.http(new_consumer(server)["api_key"]) as somebody_else:
        assert somebody_else.post(CHAT, json=body("hello!"), headers=under("k")).status_code == 200
    assert (
        http.post("/v1/completions", json={"model": "echo", "prompt": "x"}, headers=under("k")).status_code
        == 200
    )


def test_ten_at_once_are_one(http: httpx.Client, server: Server, consumer: dict[str, Any]) -> None:
    loop = server.place.background.loop
    loop.call_soon_threadsafe(server.acts.allowed.clear)
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(http.post, CHAT, json=body(WITHHELD), headers=under("k")) for _ in range(10)]
        server.do(eventually(lambda: sum(one.done() for one in asked) == 9, 20))
        loop.call_soon_threadsafe(server.acts.allowed.set)
        answers = [one.result() for one in asked]
    assert sorted(one.status_code for one in answers) == [200] + [409] * 9
    refused = [one for one in answers if one.status_code == 409]
    assert {one.json()["error"]["code"] for one in refused} == {"idempotency_key_in_use"}
    assert all(int(one.headers["retry-after"]) > 0 for one in refused)
    assert len(jobs_of(server, consumer)) == 1


def test_what_cost_nothing_may_be_tried_again(
    http: httpx.Client, server: Server, consumer: dict[str, Any]
) -> None:
    for _ in range(2):
        assert http.post(CHAT, json=body(BREAK_AT_ONCE), headers=under("failed")).status_code == 503
        server.quiet()
        refused = http.post(CHAT, json=body("hi", tallystick={"region": "mars"}), headers=under("refused"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_node")
    assert [job.state for job in jobs_of(server, consumer)] == ["failed", "failed"]
    assert http.post(CHAT, json=body("hi"), headers=under("wrong") | {"content-type": "x"}).status_code == 200


def test_a_reader_that_left_is_told_what_it_paid(
    http: httpx.Client, server: Server, consumer: dict[str, Any]
) -> None:
    asked = body(DRIP, stream=True, max_tokens=2000)
    with http.stream("POST", CHAT, json=asked, headers=under("left")) as answer:
        lines = answer.iter_lines()
        for _ in range(12):
            next(lines)
    server.quiet()
    again = http.post(CHAT, json=asked, headers=under("left"))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_key_used")
    assert len(jobs_of(server, consumer)) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_whose_key_cannot_be_noted_is_not_charged(
    http: httpx.Client,
    server: Server,
    consumer: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    jobs = server.parts.market._jobs

    async def fail(*_: object) -> None:
        await eventually(lambda: any(one._events for one in jobs.values()))
        raise Unavailable("The books are busy; nothing was charged.")

    monkeypatch.setattr(server.parts.repeats, "remember", fail)
    answer = http.post(CHAT, json=body(DRIP, stream=stream, max_tokens=2000), headers=under("lost"))
    assert (answer.status_code, "nothing was charged" in answer.text) == (503, True)
    server.quiet()
    (job,) = jobs_of(server, consumer)
    account = server.account(consumer["account_id"])
    assert (job.state, account.spent, account.held) == ("failed", 0, 0)


def test_a_whole_answer_whose_key_cannot_be_noted_is_given(
    http: httpx.Client, server: Server, consumer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        await eventually(lambda: not server.parts.market.running)
        raise Unavailable("The books are busy; nothing was charged.")

    monkeypatch.setattr(server.parts.repeats, "remember", fail)
    answer = http.post(CHAT, json=body("hello"), headers=under("late"))
    assert (answer.status_code, answer.json()["object"]) == (200, "chat.completion")
    assert server.account(consumer["account_id"]).spent > 0


def test_a_key_is_made_once(http: httpx.Client) -> None:
    terms = {"name": "laptop"}
    made = http.post("/v1/keys", json=terms, headers=under("k")).json()
    again = http.post("/v1/keys", json=terms, headers=under("k"))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_key_used")
    assert made["id"] in again.json()["error"]["message"]
    assert made["key"] not in again.text
    assert len(http.get("/v1/keys").json()["data"]) == 2
    for _ in range(2):
        wrong = http.post("/v1/keys", json={"scope": "admin"}, headers=under("bad"))
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "scope")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", b"\x80"])
def test_what_is_no_key_is_refused(http: httpx.Client, key: Any) -> None:
    answer = http.post(CHAT, json=body("hi"), headers={"idempotency-key": key})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_nothing_of_the_request_is_kept(client: OpenAI, server: Server) -> None:
    ask(client, "my secret question", extra_headers=under("a-key-of-mine"))
    kept = repr([row.model_dump() for row in server.read(lambda s: list(s.query(RepeatKey)))])
    assert "secret question" not in kept
    assert "a-key-of-mine" not in kept


def test_a_key_is_free_again_after_a_day_and_a_claim_when_it_lapses(server: Server) -> None:
    async def act() -> None:
        clock = ManualClock(1_000)
        repeats = Repeats(server.parts.database, clock, lapse_ms=500)
        claim = await repeats.claim("acct", "POST /x", "days", b"1")
        await repeats.remember(claim, "key/1")
        clock.advance(DAY_MS - 1)
        with pytest.raises(Exception, match="has ended"):
            await repeats.claim("acct", "POST /x", "days", b"1")
        clock.advance(1)
        await repeats.claim("acct", "POST /x", "days", b"another body")
        with pytest.raises(Exception, match="still running"):
            await repeats.claim("acct", "POST /x", "days", b"another body")
        clock.advance(500)
        took = await asyncio.gather(
            *(repeats.claim("acct", "POST /x", "days", b"2") for _ in range(5)), return_exceptions=True
        )
        assert sum(not isinstance(one, Exception) for one in took) == 1

    server.do(act())
