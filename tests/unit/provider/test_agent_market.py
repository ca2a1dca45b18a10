"""The agent in a real market: hub, dispatch and books on one side, the echo engine on the other."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.domain.errors import NoNode
from marketplace.domain.jobs import Delta
from provider.config import ModelConfig
from provider.engines.echo import EchoEngine
from tallystick.protocol.frames import Goodbye
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.agents import echo_of, joined
from tests.support.hubs import eventually
from tests.support.markets import QUICK, a_market, a_request, answer_of
from tests.support.nodes import key_of


async def test_a_job_is_answered_paid_and_promised(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, joined(stand, tmp_path / "node") as (agent, _):
        text, ids, completed = await stand.ask(**echo_of(agent))
        assert (text, len(ids), completed.finish) == ("hello", 6, Finish.EOS)
        assert completed.charge == 11 * 300
        await eventually(lambda: agent.evidence.pending_count() == 0)
        (kept,) = agent.evidence.recent(10)
        (part,) = completed.parts
        assert (kept.id, kept.state, kept.taken_epoch) == (part.receipt_id, "taken", 5)
        assert (kept.charge, kept.earning) == (3300, 3300 - 165)
        assert agent.jobs.done == 1


async def test_many_jobs_at_once_are_each_paid_once(tmp_path: Path) -> None:
    engine = EchoEngine(slots=8, tokens_per_event=2, seconds_per_token=0.001)
    async with (
        a_market(tmp_path, rules=replace(QUICK, queue=60)) as stand,
        joined(
            stand,
            tmp_path / "node",
            engine=engine,
            models=[ModelConfig(engine="echo", model="echo", slots=8)],
        ) as (agent, _),
    ):
        answers = await asyncio.gather(*(stand.ask(**echo_of(agent, f"job number {n}")) for n in range(24)))
        assert [text for text, _, _ in answers] == [f"job number {n}" for n in range(24)]
        await eventually(lambda: agent.evidence.pending_count() == 0)
        assert agent.evidence.totals()["taken"][1] == sum(
            part.charge - -(-part.charge * 500 // 10_000) for _, _, done in answers for part in done.parts
        )


async def test_a_reader_who_leaves_pays_for_what_was_sent(tmp_path: Path) -> None:
    engine = EchoEngine(tokens_per_event=4, seconds_per_token=0.005, copies=0)
    async with a_market(tmp_path) as stand, joined(stand, tmp_path / "node", engine=engine) as (agent, _):
        running = await stand.market.submit(
            a_request(**echo_of(agent, parameters=Parameters(max_tokens=2000)))
        )
        seen = 0
        async for event in running:
            assert isinstance(event, Delta)
            seen += len(event.ids)
            if seen >= 12:
                break
        await running.aclose()
        await stand.all_ended()
        (kept,) = agent.evidence.recent(10)
        receipt = kept.signed.receipt
        assert receipt.finish == Finish.CANCELLED
        assert 12 <= receipt.output_tokens < 2000
        await eventually(lambda: agent.evidence.pending_count() == 0)
        assert (await stand.account()).spent == kept.charge
        assert len(agent.jobs) == 0


async def test_a_draining_node_finishes_its_job_and_leaves(tmp_path: Path) -> None:
    engine = EchoEngine(tokens_per_event=1, seconds_per_token=0.02)
    async with a_market(tmp_path) as stand, joined(stand, tmp_path / "node", engine=engine) as (agent, task):
        running = await stand.market.submit(a_request(**echo_of(agent)))
        await eventually(lambda: len(agent.jobs) == 1)
        agent.drain()
        text, _, completed = await answer_of(running)
        assert (text, completed.finish) == ("hello", Finish.EOS)
        await asyncio.wait_for(task, 5)
        assert agent.evidence.recent(1)[0].state == "taken"
        with pytest.raises(NoNode):
            await stand.ask(**echo_of(agent))


async def test_a_draining_node_hands_over_what_takes_too_long(tmp_path: Path) -> None:
    slow = EchoEngine(tokens_per_event=1, seconds_per_token=0.05)
    async with (
        a_market(tmp_path) as stand,
        joined(stand, tmp_path / "one", 1, engine=slow, drain_seconds=0) as (first, task),
    ):
        running = await stand.market.submit(a_request(**echo_of(first, "a longer answer than that")))
        await eventually(lambda: len(first.jobs) == 1)
        async with joined(stand, tmp_path / "two", 2) as (second, _):
            await asyncio.sleep(0.15)
            first.drain()
            text, _, completed = await answer_of(running)
            assert text == "a longer answer than that"
            assert [part.node for part in completed.parts] == [key_of(1).address, key_of(2).address]
            await asyncio.wait_for(task, 5)
            (handed,), (ended,) = first.evidence.recent(10), second.evidence.recent(10)
            assert (handed.signed.receipt.finish, handed.state) == (Finish.HANDED_OVER, "taken")
            assert ended.signed.receipt.first_position == handed.signed.receipt.output_tokens
            assert ended.signed.receipt.prompt_tokens == 0


async def test_the_link_comes_back_by_itself(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, joined(stand, tmp_path / "node") as (agent, _):
        since = agent.connected_since
        for connection in list(stand.hub._connections.values()):
            connection.dismissed.set_result(Goodbye(code="test", message="test", retry=True))
        await eventually(lambda: agent.connected_since not in (since, None))
        text, _, _ = await stand.ask(**echo_of(agent))
        assert text == "hello"


async def test_a_paused_model_gets_no_jobs_until_it_is_resumed(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, joined(stand, tmp_path / "node") as (agent, _):
        (model,) = agent.models.values()
        model.set_terms(ModelConfig(engine="echo", model="echo", paused=True))
        agent.publish_offers()
        await eventually(lambda: all(ask.paused for ask in stand.hub.nodes()[0].asks.values()))
        with pytest.raises(NoNode):
            await stand.ask(**echo_of(agent))
        model.set_terms(ModelConfig(engine="echo", model="echo", input_price="0.10", output_price="0.20"))
        agent.publish_offers()
        await eventually(lambda: not any(ask.paused for ask in stand.hub.nodes()[0].asks.values()))
        _, _, completed = await stand.ask(**echo_of(agent))
        assert completed.charge == 5 * 100 + 6 * 200


async def test_a_killed_node_costs_the_consumer_nothing_but_another_nodes_answer(tmp_path: Path) -> None:
    slow = EchoEngine(tokens_per_event=1, seconds_per_token=0.02)
    async with contextlib.AsyncExitStack() as stack:
        stand = await stack.enter_async_context(a_market(tmp_path))
        first, task = await stack.enter_async_context(joined(stand, tmp_path / "one", 1, engine=slow))
        running = await stand.market.submit(a_request(**echo_of(first)))
        await stack.enter_async_context(joined(stand, tmp_path / "two", 2))
        task.cancel()
        text, _, completed = await answer_of(running)
        assert text == "hello"
        assert [part.node for part in completed.parts] == [key_of(2).address]
        assert first.evidence.recent(10) == []
