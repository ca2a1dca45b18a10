"""What leaves an `Idempotency-Key` free: only what cost nothing."""

from pathlib import Path

import pytest

from marketplace.domain.errors import AlreadyDone
from marketplace.domain.ports.clock import SystemClock
from marketplace.services.repeats import Claim, Repeats
from tallystick.protocol.receipts import Finish
from tests.support.markets import CONSUMER, Stand, a_market, a_request, answer_of
from tests.support.nodes import ScriptedNode, Work, an_offer


async def stop_with_nothing(work: Work) -> None:
    await work.cancelled.wait()
    await work.finish(Finish.CANCELLED)


async def stop_after_a_token(work: Work) -> None:
    await work.tokens(b"h")
    await work.cancelled.wait()
    await work.finish(Finish.CANCELLED)


async def claim(stand: Stand) -> Claim:
    repeats = Repeats(stand.database, SystemClock(), 900_000)
    return await repeats.claim(CONSUMER, "POST /v1/chat/completions", "k", b"body")


async def remember(stand: Stand, claimed: Claim, job_id: bytes) -> None:
    await Repeats(stand.database, SystemClock(), 900_000).remember(claimed, "job/" + job_id.hex())


async def test_a_reader_that_left_before_the_first_token_may_ask_again(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, stop_with_nothing)):
        claimed = await claim(stand)
        running = await stand.market.submit(a_request())
        await remember(stand, claimed, running.accepted.id)
        await running.aclose()
        await stand.all_ended()
        assert (await stand.account()).spent == 0
        assert await claim(stand) == claimed


async def test_a_reader_that_left_after_the_first_token_may_not(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, stop_after_a_token)):
        claimed = await claim(stand)
        running = await stand.market.submit(a_request())
        await remember(stand, claimed, running.accepted.id)
        await anext(running)
        await running.aclose()
        await stand.all_ended()
        (receipt,) = await stand.receipts()
        with pytest.raises(AlreadyDone, match=receipt.id.hex()):
            await claim(stand)


async def test_an_answer_of_a_model_without_a_price_is_made_once(tmp_path: Path) -> None:
    free = ScriptedNode(1, models=(an_offer(input_price=0, output_price=0),))
    async with a_market(tmp_path) as stand, stand.joined(free):
        claimed = await claim(stand)
        running = await stand.market.submit(a_request())
        await remember(stand, claimed, running.accepted.id)
        assert (await answer_of(running))[0] == "hello"
        assert (await stand.account()).spent == 0
        with pytest.raises(AlreadyDone, match=r"was charged \$0"):
            await claim(stand)
