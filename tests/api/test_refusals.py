"""What is refused, with which status and words; and that refusals cost nothing."""

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from marketplace.services import ledger
from marketplace.services.limits import LOOK_UPS
from marketplace.storage.queries import accounts
from marketplace.storage.queries import keys as queries
from tallystick.protocol.money import NanoUsd
from tests.api.asking import ask, says
from tests.api.conftest import new_consumer
from tests.support.acting import WITHHELD
from tests.support.servers import Place, Server, a_server

GOOD: dict[str, Any] = {"model": "echo", "messages": says("hello")}
CHAT = "/v1/chat/completions"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    told: dict[str, Any] = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    return told


def leave_credit(server: Server, account_id: str, amount: int) -> None:
    """Take back an account's credit but for `amount`."""
    much = NanoUsd(server.account(account_id).balance - amount)
    server.write(lambda session: ledger.revoke_credit(session, account_id, much, "test", 1))


WRONG: list[tuple[dict[str, Any], str | None]] = [
    ({"n": 2}, "n"),
    ({"n": 0}, "n"),
    ({"n": "one"}, "n"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"logit_bias": {"hello": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": ["a" * 257]}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"functions": [{"name": "f"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"tallystick": {"max_output_price": "cheap"}}, "tallystick.max_output_price"),
    ({"tallystick": {"max_output_price": "0.0001"}}, "tallystick.max_output_price"),
]


@pytest.fixture(scope="module")
def anyone(server: Server) -> Iterator[httpx.Client]:
    """A client for requests that cost nothing."""
    with server.http(new_consumer(server)["api_key"]) as client:
        yield client


@pytest.mark.parametrize(("change", "param"), WRONG, ids=[str(change)[:60] for change, _ in WRONG])
def test_a_wrong_field_is_named(anyone: httpx.Client, change: dict[str, Any], param: str | None) -> None:
    answer = anyone.post(CHAT, json=GOOD | change)
    assert answer.status_code == 400, answer.text
    told = error_of(answer)
    assert told["type"] == "invalid_request_error"
    assert told["message"]
    if param is not None:
        assert told["param"] == param


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"hello"',
        b"\xff\xfe",
        b'{"model": "echo", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "echo"}',
        b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"temperature": NaN}',
        b"[" * 100_000,
        b'{"model": "echo", "messages": [' + b"[" * 50_000,
    ],
    ids=range(11),
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/accounts", "/v1/sessions"])
def test_a_body_that_is_no_request_is_refused(anyone: httpx.Client, path: str, content: bytes) -> None:
    answer = anyone.post(path, content=content)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_message_that_breaks_no_rule_of_ours_but_the_context_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "x" * 40_000)
    assert refused.value.code == "context_length_exceeded"


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    for call in (lambda: ask(client, "hello", model="gpt-9"), lambda: client.models.retrieve("gpt-9/x")):
        with pytest.raises(openai.NotFoundError) as refused:
            call()
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer",
        "Basic dXNlcjpwYXNz",
        "Bearer sk-abc",
        "Bearer tsk_" + "A" * 43,
        "Bearer tss_" + "A" * 43,
        "Bearer tsk_\u00e9".encode("latin-1"),
    ],
)
def test_without_a_good_key_nothing_is_answered(server: Server, header: Any) -> None:
    headers = {} if header is None else {"authorization": header}
    with server.http() as client:
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/balance")):
            answer = client.request(method, path, headers=headers, json=GOOD if method == "POST" else None)
            assert answer.status_code == 401, answer.text
            assert error_of(answer)["type"] == "authentication_error"


def test_a_key_in_the_address_is_no_key(server: Server, consumer: dict[str, Any]) -> None:
    with server.http() as client:
        assert client.get("/v1/models", params={"api_key": consumer["api_key"]}).status_code == 401


def test_a_revoked_key_is_refused_at_once(server: Server, consumer: dict[str, Any]) -> None:
    with server.openai(consumer["api_key"]) as client, server.http(consumer["token"]) as owner:
        ask(client, "hello")
        assert owner.delete(f"/v1/keys/{consumer['key']['id']}").status_code == 200
        with pytest.raises(openai.AuthenticationError) as refused:
            ask(client, "hello")
        assert refused.value.code == "revoked_api_key"


def test_out_of_money_says_the_numbers_and_is_not_tried_again(
    server: Server, consumer: dict[str, Any]
) -> None:
    seen: list[int] = []
    leave_credit(server, consumer["account_id"], 100_000)
    with (
        server.openai(
            consumer["api_key"],
            max_retries=3,
            http_client=httpx.Client(
                event_hooks={"response": [lambda answer: seen.append(answer.status_code)]}, trust_env=False
            ),
        ) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        ask(client, "hello", max_tokens=1000)
    assert refused.value.status_code == 402
    assert seen == [402]
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.code == "insufficient_balance"
    assert "can cost $" in refused.value.message
    assert "$0.0001 is available" in refused.value.message
    assert server.account(consumer["account_id"]).held == 0


def test_an_exhausted_key_still_lists_models_and_reads_its_balance(
    server: Server, consumer: dict[str, Any]
) -> None:
    with server.http(consumer["api_key"]) as owner:
        made = owner.post(
            "/v1/keys", json={"name": "poor", "scope": "inference", "cap_usd": "0.000001"}
        ).json()
    with server.http(made["key"]) as client:
        answer = client.post(CHAT, json=GOOD)
        assert (answer.status_code, error_of(answer)["code"]) == (402, "key_cap_reached")
        assert answer.headers["x-should-retry"] == "false"
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/models/echo").status_code == 200
        assert client.get("/v1/balance").json()["available_usd"] == "1.00"


def test_a_cap_in_the_key_is_a_cap_on_prices_too(server: Server, consumer: dict[str, Any]) -> None:
    with server.http(consumer["api_key"]) as owner:
        made = owner.post("/v1/keys", json={"max_output_price": "0.10"}).json()
    with server.http(made["key"]) as client:
        answer = client.post(CHAT, json=GOOD | {"tallystick": {"max_output_price": "5"}})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_node")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(http: httpx.Client, server: Server, announced: bool) -> None:
    content = b" " * (server.parts.settings.max_body_bytes + 1)
    # A body that comes in pieces announces no length.
    sent: Any = content if announced else iter([content[: len(content) // 2], content[len(content) // 2 :]])
    answer = http.post(CHAT, content=sent)
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"


def test_unknown_paths_and_methods_are_answered_in_the_same_form(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/", 404),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert error_of(answer)["type"] == "invalid_request_error"


def test_a_market_without_nodes_says_when_to_come_back_and_charges_nothing(
    place: Place, folder: Path
) -> None:
    with a_server(place, folder) as server:
        consumer = new_consumer(server)
        server.do(_leave(server))
        with server.http(consumer["api_key"]) as client:
            answer = client.post(CHAT, json=GOOD)
            assert (answer.status_code, error_of(answer)["code"]) == (503, "no_node")
            assert int(answer.headers["retry-after"]) > 0
            assert client.get("/v1/models/echo").json()["tallystick"]["nodes"] == 0
        account = server.account(consumer["account_id"])
        assert (account.spent, account.held) == (0, 0)


async def _leave(server: Server) -> None:
    from tests.support.hubs import eventually

    assert server.agent is not None
    server.agent.drain()
    await eventually(lambda: not server.parts.hub.nodes(), 10)


def test_too_many_requests_say_when_to_come_back(place: Place, folder: Path) -> None:
    strict = {
        "key_requests_per_minute": 1,
        "key_burst": 3,
        "address_requests_per_minute": 1,
        "address_burst": 2,
        "sign_ups_per_hour": 2,
    }
    with a_server(place, folder, with_node=False, **strict) as server:
        consumer, other = new_consumer(server), new_consumer(server)
        with server.http() as client:
            answer = client.post("/v1/accounts", json={"email": "third@example.com"})
            assert (answer.status_code, error_of(answer)["type"]) == (429, "rate_limit_error")
            assert int(answer.headers["retry-after"]) > 60
            assert [client.get("/v1/market").status_code for _ in range(3)] == [200, 200, 429]
            assert client.get("/healthz").status_code == 200
        with server.http(consumer["api_key"]) as client:
            assert [client.get("/v1/balance").status_code for _ in range(3)] == [200] * 3
            answer = client.get("/v1/balance")
            assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
            assert 0 < int(answer.headers["retry-after"]) <= 60
        with server.http(other["api_key"]) as client:
            assert client.get("/v1/balance").status_code == 200
        with server.http("tsk_" + "A" * 43) as client:
            # Guessing keys counts against the address, which has had its share.
            assert client.get("/v1/balance").status_code == 429
            assert client.delete("/v1/sessions").status_code == 429


def test_who_tries_keys_is_counted_before_the_books_are_asked(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    by_hash = queries.by_hash
    monkeypatch.setattr(queries, "by_hash", lambda s, digest: asked.append(digest) or by_hash(s, digest))
    strict = {"address_requests_per_minute": 1, "address_burst": 2}
    with a_server(place, folder, with_node=False, **strict) as server, server.http() as client:
        tried = [{"authorization": f"Bearer tsk_{number:043}"} for number in range(60)]
        answers = [client.get("/v1/balance", headers=headers).status_code for headers in tried]
        assert answers == [401] * 2 + [429] * 58
        assert 2 * LOOK_UPS <= len(asked) < 3 * LOOK_UPS


def test_a_suspended_account_counts_as_one_that_tries_keys(place: Place, folder: Path) -> None:
    strict = {"address_requests_per_minute": 1, "address_burst": 2}
    with a_server(place, folder, with_node=False, **strict) as server:
        consumer = new_consumer(server)
        account_id = consumer["account_id"]
        server.do(server.parts.database.write(lambda s: accounts.change(s, account_id, status="suspended")))
        with server.http(consumer["api_key"]) as client:
            assert [client.get("/v1/balance").status_code for _ in range(3)] == [403, 403, 429]


def test_parallel_requests_never_hold_more_than_there_is(server: Server, consumer: dict[str, Any]) -> None:
    """The balance covers three of these holds; ten come at once."""
    server.place.background.loop.call_soon_threadsafe(server.acts.allowed.clear)
    tokens = 1_000_000_000 // 300 // 3 - 100
    body = {"model": "echo", "messages": says(WITHHELD), "max_tokens": min(tokens, 30_000)}
    with server.http(consumer["api_key"]) as owner:
        key = owner.post("/v1/keys", json={"cap_usd": "0.0271"}).json()["key"]  # three holds of 30,000 tokens
    with server.http(key) as client, concurrent.futures.ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(client.post, CHAT, json=body) for _ in range(10)]
        # The three that got their hold wait for their node; the others are refused meanwhile.
        done = concurrent.futures.as_completed(waiting, timeout=20)
        refused = [next(done).result().status_code for _ in range(7)]
        server.place.background.loop.call_soon_threadsafe(server.acts.allowed.set)
        answers = [one.result().status_code for one in waiting]
    server.place.background.loop.call_soon_threadsafe(server.acts.allowed.clear)
    assert refused == [402] * 7
    assert sorted(answers) == [200] * 3 + [402] * 7
    server.quiet()
    assert server.account(consumer["account_id"]).held == 0
