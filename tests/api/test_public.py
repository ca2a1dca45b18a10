"""What anybody may see, and what whoever runs the coordinator looks at."""

import asyncio
import itertools
import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from marketplace.api.public.health import FRESH_SECONDS, health_routes
from marketplace.app import Height
from marketplace.domain.epochs import EpochClock
from marketplace.domain.ports.chain import ChainBlock
from tests.api.asking import ask
from tests.support.servers import Server


def test_the_market_says_where_its_contracts_are(server: Server) -> None:
    with server.http() as client:
        told = client.get("/v1/market").json()
    place = server.place.deployment
    assert told["contracts"] == {"ledger": place.ledger, "stake": place.stake, "token": place.token}
    assert (told["chain_id"], told["coordinator"], told["treasury"]) == (
        place.chain_id,
        place.coordinator,
        place.owner,
    )
    assert (told["fee_bps"], told["rpc_url"], told["local"]) == (500, place.rpc_url, True)
    assert told["epoch"]["ends_at"] == place.genesis + (told["epoch"]["number"] + 1) * place.epoch_length


def test_nodes_are_listed_with_their_prices(server: Server) -> None:
    with server.http() as client:
        (node,) = client.get("/v1/nodes").json()["data"]
    config = server.place.config("")
    assert (node["node"], node["operator"], node["eligible"]) == (config.node, config.operator, True)
    (model,) = node["models"]
    assert (model["name"], model["input_price"], model["output_price"]) == ("echo", "0.30", "0.30")


def test_an_operators_earnings_are_what_was_charged_less_the_fee(
    server: Server, consumer: dict[str, Any]
) -> None:
    address = server.place.config("").operator
    with server.http() as client, server.openai(consumer["api_key"]) as user:
        assert client.get("/v1/operators/0x" + "99" * 20).status_code == 404
        ask(user, "the first job makes an operator known")
        server.quiet()
        before = client.get(f"/v1/operators/{address}").json()
        charge = int(ask(user, "hello").to_dict()["tallystick"]["charge_nano_usd"])  # type: ignore[index,call-overload]
        after = client.get(f"/v1/operators/{address}").json()
        earned = int(after["pending_nano_usd"]) - int(before["pending_nano_usd"])
        assert earned == charge - -(-charge * 500 // 10_000)
        assert after["settled_nano_usd"] == "0"
        refused = client.get("/v1/operators/somebody")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "address")


def test_epochs_that_settled_nothing_are_not_there(server: Server) -> None:
    with server.http() as client:
        assert client.get("/v1/epochs").json() == {"object": "list", "data": []}
        assert client.get("/v1/epochs/0").status_code == 404
        for number in ("x", "-1", "1.5", "9" * 30, "9" * 5000):
            refused = client.get(f"/v1/epochs/{number}")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "epoch")


def test_a_coordinator_that_is_well_says_so(server: Server) -> None:
    with server.http() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        # No block comes by itself on the tests' chain, and a chain without new blocks is not ready.
        server.do(server.place.market.mine())
        time.sleep(0.5)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        assert answer.json()["checks"]["books"] == "sqlite"
        assert answer.json()["checks"]["chain"].startswith("block ")


async def test_a_stale_chain_is_not_ready() -> None:
    height, now, seconds = Height(EpochClock(0, 100)), 1_000_000, itertools.count()

    async def chain() -> str:
        return await height.check(now)

    app = Starlette(routes=health_routes({"chain": chain}, lambda: b"", now=lambda: float(next(seconds))))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://coordinator"
    ) as client:
        never_seen = await client.get("/readyz")
        assert (never_seen.status_code, never_seen.json()["status"]) == (503, "not ready")
        height.see(ChainBlock(number=7, hash=bytes(32), timestamp=now - 61))
        assert (await client.get("/readyz")).status_code == 503
        height.see(ChainBlock(number=8, hash=bytes(32), timestamp=now - 59))
        fresh = await client.get("/readyz")
        assert (fresh.status_code, fresh.json()["checks"]) == (200, {"chain": "block 8"})
        assert (await client.get("/healthz")).status_code == 200


async def test_whoever_asks_for_readiness_the_parts_are_asked_once_a_second() -> None:
    asked, seconds = 0, 100.0

    async def chain() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return "well"

    app = Starlette(routes=health_routes({"chain": chain}, lambda: b"", now=lambda: seconds))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://c") as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
        assert {answer.json()["checks"]["chain"] for answer in answers} == {"well"}
        assert asked == 1
        seconds += FRESH_SECONDS
        await client.get("/readyz")
        assert asked == 2


def test_metrics_can_be_read_and_count_by_route(server: Server, consumer: dict[str, Any]) -> None:
    def counted() -> dict[tuple[str, str, str], float]:
        with server.http() as client:
            text = client.get("/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["tallystick_nodes_connected"].samples[0].value == 1
        assert families["tallystick_jobs_running"].samples[0].value == 0
        return {
            (one.labels["method"], one.labels["route"], one.labels["status"]): one.value
            for one in families["tallystick_requests"].samples
            if one.name.endswith("_total")
        }

    server.quiet()
    before = counted()
    with server.http(consumer["api_key"]) as client:
        client.get("/v1/receipts/0x" + "12" * 32)
        client.get("/v1/receipts/0x" + "34" * 32)
        client.get("/nowhere/1")
        client.get("/nowhere/2")
    after = counted()
    assert (
        after["GET", "/v1/receipts/{receipt_id}", "404"]
        - before.get(("GET", "/v1/receipts/{receipt_id}", "404"), 0)
        == 2
    )
    assert after["GET", "unknown", "404"] - before.get(("GET", "unknown", "404"), 0) == 2
    assert not any("nowhere" in route for _, route, _ in after)


def test_a_sign_of_life_needs_no_turn(server: Server) -> None:
    """Health is answered while jobs run; nothing of it waits for the books' writer."""

    async def many() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get("/healthz") for _ in range(50)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(many()) == [200] * 50
