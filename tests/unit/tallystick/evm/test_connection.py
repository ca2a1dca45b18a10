"""What a connection leaves behind when something goes wrong."""

import asyncio

import pytest

from tallystick.evm import together


async def test_of_reads_that_are_made_together_none_runs_on_after_the_error() -> None:
    failed, ended = asyncio.Event(), asyncio.Event()

    async def fails() -> int:
        failed.set()
        raise LookupError("first")

    async def lasts() -> int:
        await failed.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        ended.set()
        return 1

    with pytest.raises(LookupError, match="first"):
        await together([lasts(), fails()])
    assert ended.is_set()


async def test_reads_that_are_made_together_answer_in_their_order() -> None:
    async def answer(number: int) -> int:
        for _ in range(10 - number):
            await asyncio.sleep(0)
        return number

    assert await together([answer(number) for number in range(5)]) == [0, 1, 2, 3, 4]
