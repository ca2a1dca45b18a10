"""Real agents and the real hub: answers go on when agents hand over, vanish, or the reader leaves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.services.dispatch import DispatchRules
from provider.agent import Agent
from provider.config import ModelConfig, ProviderConfig
from provider.engines.echo import EchoEngine
from provider.evidence import Evidence
from provider.serving import ServedModel
from tallystick.protocol.ids import ModelId
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.hubs import eventually
from tests.support.markets import Stand, a_market, a_request, answer_of
from tests.support.nodes import LEDGER, STAKE, ScriptedNode

TEXT = "a long text with “quotes”, é, 漢字 and 🙂 in it, so that characters are cut in the middle"
RULES = DispatchRules(max_attempts=20, first_token=5, stall=5, cancel=2, hold_expiry=60, queue=5, failover=5)


class Running:
    """An agent that serves echo, one token at a time."""

    def __init__(self, stand: Stand, folder: Path, number: int) -> None:
        node = ScriptedNode(number)
        stand.stakes.register(node)
        self.address = node.address
        self.evidence = Evidence(folder / f"evidence-{number}.sqlite")
        engine = EchoEngine(seconds_per_token=0.002, tokens_per_event=1)
        self.model = ServedModel(engine, ModelConfig(engine="echo", model="echo", slots=16))
        config = ProviderConfig(
            coordinator=stand.url.replace("ws", "http", 1).removesuffix("/nodes/connect"),
            chain_id=31337,
            ledger=LEDGER,
            stake=STAKE,
            token=LEDGER,
            operator=node.operator,
            node=node.address,
            drain_seconds=0,
        )
        self.agent = Agent(config, node.key, [self.model], self.evidence, software="test", hardware="")
        self.task = asyncio.create_task(self.agent.run())

    async def stop(self) -> None:
        """Leave in order; running jobs are handed over."""
        self.agent.drain()
        await self.task

    async def kill(self) -> None:
        """Cut the connection without a word."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def agents(stand: Stand, folder: Path, *numbers: int) -> AsyncIterator[list[Running]]:
    """Run agents until the end of the block."""
    running = [Running(stand, folder, number) for number in numbers]
    model_id = running[0].model.id
    await eventually(
        lambda: stand.catalog.by_id(model_id) is not None and len(stand.hub.nodes()) == len(numbers)
    )
    try:
        yield running
    finally:
        for one in running:
            if not one.task.done():
                await one.kill()
            one.evidence.close()


async def ask(stand: Stand, model_id: ModelId, **changes: object) -> tuple[str, list[int], Finish, int]:
    prompt = f"user: {TEXT}\nassistant: "
    changes = {"parameters": Parameters(max_tokens=500)} | changes
    running = await stand.market.submit(
        a_request(model_id=model_id, prompt_ids=tuple(prompt.encode()), prompt_text=prompt, **changes)
    )
    text, ids, completed = await answer_of(running)
    return text, ids, completed.finish, completed.charge


async def test_agents_that_hand_over_are_both_paid_and_the_text_is_whole(tmp_path: Path) -> None:
    async with a_market(tmp_path, rules=RULES) as stand, agents(stand, tmp_path, 1, 2) as (one, two):
        whole = await ask(stand, one.model.id)
        assert whole[0] == TEXT
        asking = [asyncio.create_task(ask(stand, one.model.id)) for _ in range(6)]
        await asyncio.sleep(0.1)
        await two.stop()
        assert await asyncio.gather(*asking) == [whole] * 6
        receipts = await stand.receipts()
        assert {receipt.node for receipt in receipts} == {one.address, two.address}
        assert len(receipts) > 7
        assert (await stand.account()).spent == 7 * whole[3] == sum(receipt.charge for receipt in receipts)
        assert two.evidence.pending() == []


@pytest.mark.parametrize("delay", [0.01, 0.05, 0.1, 0.15])
async def test_an_agent_that_vanishes_is_replaced_wherever_it_was(tmp_path: Path, delay: float) -> None:
    async with a_market(tmp_path, rules=RULES) as stand, agents(stand, tmp_path, 1, 2) as (one, two):
        whole = await ask(stand, one.model.id)
        asking = [asyncio.create_task(ask(stand, one.model.id)) for _ in range(4)]
        await asyncio.sleep(delay)
        await two.kill()
        for text, ids, finish, charge in await asyncio.gather(*asking):
            assert (text, ids, finish) == whole[:3]
            assert charge <= whole[3]
        assert (await stand.account()).held == 0


async def test_a_stop_string_is_found_across_a_failover(tmp_path: Path) -> None:
    async with a_market(tmp_path, rules=RULES) as stand, agents(stand, tmp_path, 1, 2) as (one, two):
        parameters = Parameters(max_tokens=500, stop=("漢字 and",))
        asking = [asyncio.create_task(ask(stand, one.model.id, parameters=parameters)) for _ in range(4)]
        await asyncio.sleep(0.08)
        await two.kill()
        for text, _, finish, _ in await asyncio.gather(*asking):
            assert (text, finish) == (TEXT[: TEXT.index("漢字")], Finish.STOP_STRING)


async def test_a_reader_that_leaves_pays_for_what_the_agent_signed(tmp_path: Path) -> None:
    async with a_market(tmp_path, rules=RULES) as stand, agents(stand, tmp_path, 1) as (one,):
        prompt = f"user: {TEXT}\nassistant: "
        running = await stand.market.submit(
            a_request(
                model_id=one.model.id,
                prompt_ids=tuple(prompt.encode()),
                prompt_text=prompt,
                parameters=Parameters(max_tokens=500),
            )
        )
        for _ in range(5):
            await anext(running)
        await running.aclose()
        await stand.all_ended()
        (receipt,) = await stand.receipts()
        (job,) = await stand.jobs()
        assert (job.state, job.finish) == ("done", Finish.CANCELLED)
        made = receipt.charge // 300 - len(prompt.encode())
        assert 5 <= made < len(TEXT.encode())
        assert (await stand.account()).spent == receipt.charge
