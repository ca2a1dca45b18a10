"""A running job between its driver and its reader."""

import asyncio
import time

import pytest

from marketplace.domain.jobs import AcceptedJob, Completed, Delta
from marketplace.services.running import MOST_TOGETHER, ReaderLeft, RunningJob
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.ids import Address, JobId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import Finish
from tests.support.markets import a_request

NODE, OTHER = Address("0x" + "01" * 20), Address("0x" + "02" * 20)
END = Completed(Finish.EOS, "", 1, 2, NanoUsd(3), ())


def a_running_job() -> RunningJob:
    price = NanoUsd(300)
    job = AcceptedJob(JobId(b"j" * 32), a_request(), b"", b"", price, price, 0, NanoUsd(0), int(time.time()))
    return RunningJob(job)


def piece(text: str, node: Address = NODE) -> Delta:
    return Delta(tuple(text.encode()), text, tuple(TokenLogprob(-1.0) for _ in text), node)


async def test_a_reader_that_keeps_up_gets_every_piece_by_itself() -> None:
    running = a_running_job()
    for text in ("a", "b"):
        running.deliver(piece(text))
        assert await anext(running) == piece(text)


async def test_a_reader_that_is_behind_gets_the_same_answer_in_fewer_pieces() -> None:
    running = a_running_job()
    text = "abcdefghij" * 30
    for one in text:
        running.deliver(piece(one))
    running.complete(END)
    *pieces, end = [event async for event in running]
    assert end == END
    assert all(isinstance(one, Delta) and len(one.ids) <= MOST_TOGETHER for one in pieces)
    assert len(pieces) == -(-len(text) // MOST_TOGETHER)
    deltas = [one for one in pieces if isinstance(one, Delta)]
    assert "".join(one.text for one in deltas) == text
    assert [token for one in deltas for token in one.ids] == list(text.encode())
    assert sum(len(one.logprobs) for one in deltas) == len(text)


async def test_pieces_of_two_nodes_are_not_put_together() -> None:
    running = a_running_job()
    running.deliver(piece("a"))
    running.deliver(piece("b", OTHER))
    assert [await anext(running), await anext(running)] == [piece("a"), piece("b", OTHER)]


async def test_a_reader_that_waits_is_told_that_it_has_left() -> None:
    running = a_running_job()
    left: list[bool] = []

    async def stop() -> None:
        left.append(True)

    running.when_left(stop)
    waiting = asyncio.create_task(anext(running))  # type: ignore[arg-type]  # a coroutine, as it is written here
    await asyncio.sleep(0)
    await running.aclose()
    with pytest.raises(ReaderLeft):
        await waiting
    assert left == [True]
