"""A job of a server that shows no token ids, stopped in the middle: what was sent is counted all the same."""

import asyncio
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestServer

from provider.engines.openai_engine import OpenAIEngine
from provider.jobs import RunningJob
from tallystick.protocol.frames import AnyFrame, Tokens
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish, Receipt
from tests.support.agents import a_config, a_job, an_agent
from tests.unit.provider.engines.openai_server import EchoServer

SENT = "größ"
PROMPT = "hello"


async def stopped(home: Path, server: EchoServer, finish: Finish, **changes: Any) -> Receipt:
    """Return the receipt of a job that is ended with `finish` when its second piece has been sent."""
    server.behaviour = "stall"
    async with TestServer(server.app()) as running:
        engine = OpenAIEngine(str(running.make_url("/v1")), "echo")
        await engine.start()
        agent = an_agent(a_config(), home, engine=engine)
        texts: list[str] = []

        def send(frame: AnyFrame) -> None:
            if isinstance(frame, Tokens):
                texts.append(frame.text)
                if len(texts) == 2:
                    job.stop(finish)

        frame = a_job(agent, prompt_ids=(), prompt_text=PROMPT, **changes)
        job = RunningJob(frame, engine, agent.jobs._bench, send)
        receipt = await asyncio.wait_for(job.run(), 60)
        await engine.close()
        agent.evidence.close()
    assert receipt is not None
    assert "".join(texts) == SENT
    assert receipt.text_bytes == len(SENT.encode())
    return receipt


async def test_a_cancelled_answer_counts_a_token_for_each_piece_that_was_sent(tmp_path: Path) -> None:
    receipt = await stopped(tmp_path, EchoServer(), Finish.CANCELLED)
    assert (receipt.finish, receipt.prompt_tokens, receipt.output_tokens) == (Finish.CANCELLED, 0, 2)


async def test_a_server_that_counts_as_it_goes_is_believed(tmp_path: Path) -> None:
    server = EchoServer()
    server.counts_as_it_goes = True
    receipt = await stopped(tmp_path, server, Finish.CANCELLED)
    assert (receipt.prompt_tokens, receipt.output_tokens) == (len(PROMPT), 6)


async def test_no_more_is_counted_than_was_asked_for(tmp_path: Path) -> None:
    server = EchoServer()
    server.ignores_limit = True
    receipt = await stopped(tmp_path, server, Finish.CANCELLED, parameters=Parameters(max_tokens=1))
    assert receipt.output_tokens == 1


async def test_a_part_that_nobody_can_go_on_from_is_not_counted(tmp_path: Path) -> None:
    assert (await stopped(tmp_path, EchoServer(), Finish.HANDED_OVER)).output_tokens == 0
