"""Two hundred requests at once on money for ten: ten run, the others get 402 with the numbers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.services import ledger
from tallystick.protocol.money import NanoUsd, format_usd
from tests.api.asking import says
from tests.api.conftest import new_consumer
from tests.support.acting import WITHHELD, ActingEngine
from tests.support.agents import an_agent, running
from tests.support.hubs import eventually
from tests.support.servers import NODE, Place, Server, a_server

REQUESTS, FIT = 200, 10
MAX_TOKENS = 1_000
CHAT = "/v1/chat/completions"


@pytest.fixture
def wide_server(place: Place, folder: Path) -> Iterator[Server]:
    """A coordinator whose node has a slot for every request."""
    with (
        a_server(place, folder, with_node=False, queue_seconds=60, first_token_seconds=120) as server,
        place.background.hold(_wide_agent(server)),
    ):
        yield server


@contextlib.asynccontextmanager
async def _wide_agent(server: Server) -> AsyncIterator[None]:
    config = server.place.config(f"{server.url}/v1")
    config.models[0].slots = 64
    home = server.folder / "agent"
    home.mkdir()
    agent = an_agent(config, home, NODE, ActingEngine(server.acts))
    async with running(agent):
        await eventually(lambda: any(node.eligible for node in server.parts.hub.nodes()), 60)
        await eventually(lambda: all(server.parts.catalog.by_id(model) for model in agent.models), 60)
        yield


@pytest.mark.parametrize("limit", ["balance", "cap"])
def test_two_hundred_at_once_on_money_for_ten(wide_server: Server, limit: str) -> None:
    server, consumer = wide_server, new_consumer(wide_server)
    body = {"model": "echo", "messages": says(WITHHELD), "max_tokens": MAX_TOKENS}
    with server.http(consumer["api_key"]) as owner:
        prompt = server.do(_prompt_tokens(server))
        hold = NanoUsd(300 * (prompt + MAX_TOKENS))
        room = NanoUsd(FIT * hold + hold // 2)
        if limit == "balance":
            much = NanoUsd(server.account(consumer["account_id"]).balance - room)
            server.write(
                lambda session: ledger.revoke_credit(session, consumer["account_id"], much, "test", 1)
            )
            key, code = consumer["api_key"], "insufficient_balance"
        else:
            key = owner.post("/v1/keys", json={"cap_usd": format_usd(room)}).json()["key"]
            code = "key_cap_reached"
    answers = asyncio.run(_all_at_once(server, key, body))
    refused = [answer for answer in answers if answer.status_code == 402]
    assert sorted(answer.status_code for answer in answers) == [200] * FIT + [402] * (REQUESTS - FIT)
    assert {answer.json()["error"]["code"] for answer in refused} == {code}
    for answer in refused:
        assert f"${format_usd(hold)}" in answer.json()["error"]["message"]
        assert f"${format_usd(NanoUsd(room - FIT * hold))}" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
    server.quiet()
    assert server.account(consumer["account_id"]).held == 0


async def _prompt_tokens(server: Server) -> int:
    """Return how many tokens the prompt has, as the market counts them."""
    prompt = await server.parts.catalog.resolve("echo").prompts.chat(says(WITHHELD))
    return len(prompt.ids)


async def _all_at_once(server: Server, key: str, body: dict[str, Any]) -> list[httpx.Response]:
    """Send all requests; those that run may answer once all the others were refused."""
    loop = server.place.background.loop
    loop.call_soon_threadsafe(server.acts.allowed.clear)
    limits = httpx.Limits(max_connections=REQUESTS)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, limits=limits, timeout=200) as client:
        asked = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(REQUESTS)]
        async with asyncio.timeout(200):
            while sum(task.done() for task in asked) < REQUESTS - FIT:  # noqa: ASYNC110 - the last have no event
                await asyncio.sleep(0.05)
        loop.call_soon_threadsafe(server.acts.allowed.set)
        return list(await asyncio.gather(*asked))
