"""Nodes that garble, flood, stall, vanish, come twice or bring old receipts, in the middle of a paid answer.

An honest node finishes each; the consumer pays once, only for what was signed, and the books add up.
"""

import asyncio
import os
import random
from pathlib import Path

import msgspec
import pytest

from marketplace.domain.jobs import Completed, Delta
from marketplace.services.running import RunningJob
from marketplace.transport.hub import HubRules
from tallystick.protocol.frames import (
    Finished,
    Goodbye,
    Heartbeat,
    ReceiptRefused,
    ReceiptTaken,
    Welcome,
    encode_frames,
)
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish, SignedReceipt
from tests.support.hubs import eventually
from tests.support.markets import DEPOSIT, Stand, a_market, a_request, answer_of
from tests.support.nodes import EOS, NodeConnection, ScriptedNode, Work, connected

WHOLE = (5 + 6) * 300
"""An echo of `hello` with its end token, at the default price."""


class Bad(ScriptedNode):
    """Sends two tokens, says so, and waits for the test to do its worst."""

    def __init__(self) -> None:
        super().__init__(1, self._begin)
        self.begun = asyncio.Event()

    async def _begin(self, work: Work) -> None:
        await work.tokens(b"he")
        self.begun.set()
        await asyncio.Event().wait()


async def rest_of(running: RunningJob, bad: Bad) -> tuple[str, Completed]:
    """Return the answer, once an honest node has finished it."""
    text, _, completed = await answer_of(running)
    assert bad.address not in {part.node for part in completed.parts}
    return text, completed


async def check_money(stand: Stand, charged: int) -> None:
    """The consumer has paid `charged` and nothing is held; the bad node has earned nothing."""
    await stand.all_ended()
    account = await stand.account()
    assert (account.spent, account.held, account.balance) == (charged, 0, DEPOSIT - charged)
    assert await stand.earned(Bad()) == 0


@pytest.mark.parametrize(
    "worst",
    [
        b"\xc1\xff\xff",
        random.Random(1).randbytes(2_000),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        "text",
        encode_frames([Welcome(session=b"s", heartbeat_ms=1, block_number=1, epoch=1)]),
    ],
    ids=["no frames", "noise", "nested", "four billion", "text", "a coordinator's"],
)
async def test_a_node_that_sends_garbage_is_sent_away_and_another_finishes(
    tmp_path: Path, worst: bytes | str
) -> None:
    bad = Bad()
    async with a_market(tmp_path) as stand, stand.joined(bad) as connection:
        running = await stand.market.submit(a_request())
        await bad.begun.wait()
        async with stand.joined(ScriptedNode(2)):
            await connection.socket.send(worst)
            text, completed = await rest_of(running, bad)
            assert (text, completed.charge) == ("hello", (5 + 4) * 300)
            goodbye = await bad.until(lambda frame: isinstance(frame, Goodbye))
            assert isinstance(goodbye, Goodbye)
            assert (goodbye.code, goodbye.retry) == ("garbage", False)
            await check_money(stand, completed.charge)


async def test_a_node_that_floods_is_not_listened_to_and_another_finishes(tmp_path: Path) -> None:
    bad, rules = Bad(), HubRules(heartbeat_ms=100, node_timeout=10, messages_rate=50, messages_burst=100)
    async with a_market(tmp_path, hub_rules=rules) as stand, stand.joined(bad) as connection:
        running = await stand.market.submit(a_request())
        await bad.begun.wait()
        async with stand.joined(ScriptedNode(2)):
            flooding = asyncio.create_task(flood(connection))
            text, completed = await rest_of(running, bad)
            assert (text, completed.charge) == ("hello", (5 + 4) * 300)
            await check_money(stand, completed.charge)
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)


async def flood(connection: NodeConnection) -> None:
    """Send far more than a node may, without end."""
    while True:
        await connection.send([Heartbeat(at_ms=0)])
        await asyncio.sleep(0)


async def test_a_node_that_connects_twice_in_mid_answer_keeps_one_line_and_no_job(tmp_path: Path) -> None:
    bad, again, third = Bad(), Bad(), Bad()
    async with a_market(tmp_path) as stand, stand.joined(bad):
        running = await stand.market.submit(a_request())
        await bad.begun.wait()
        async with stand.joined(ScriptedNode(2)):
            async with connected(again, stand.url), connected(third, stand.url):
                for older in (bad, again):
                    goodbye = await older.until(lambda frame: isinstance(frame, Goodbye))
                    assert isinstance(goodbye, Goodbye)
                    assert goodbye.code == "replaced"
                assert sorted(view.address for view in stand.hub.nodes()).count(bad.address) == 1
                text, completed = await finished_by_anyone(running, third)
            assert text == "hello"
            await stand.all_ended()
            account = await stand.account()
            assert (account.spent, account.held) == (completed.charge, 0)


async def finished_by_anyone(running: RunningJob, third: Bad) -> tuple[str, Completed]:
    """Return the answer; the job may have come to the node's newest line, where it signs for what it has."""

    async def give_up() -> None:
        await third.begun.wait()
        for work in list(third.works.values()):
            await work.fail("busy")

    giving_up = asyncio.create_task(give_up())
    text, _, completed = await answer_of(running)
    giving_up.cancel()
    return text, completed


async def test_a_receipt_that_is_brought_again_and_again_is_paid_once(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand:
        async with stand.joined(node) as connection:
            await stand.ask()
            earned = await stand.earned(node)
            (work,) = node.works.values()
            taken = await node.until(lambda frame: isinstance(frame, ReceiptTaken))
            assert isinstance(taken, ReceiptTaken)
            kept = await receipt_of(stand)
            node.received.clear()
            for _ in range(20):
                await connection.send([kept])
            await eventually(lambda: node.received.count(taken) == 20)
            # The same job signed anew with more in it, and with another job's number.
            node.received.clear()
            dearer = work.a_receipt(Finish.EOS, output_tokens=4_000)
            other = work.a_receipt(Finish.EOS, job_id=os.urandom(32))
            await connection.send([Finished(receipt=dearer), Finished(receipt=other)])
            await eventually(lambda: sum(isinstance(one, ReceiptRefused) for one in node.received) == 2)
        async with connected(node, stand.url) as connection:
            await connection.send([kept])
            await eventually(lambda: taken in node.received)
        assert (await stand.account()).spent == WHOLE
        assert await stand.earned(node) == earned > 0
        assert len(await stand.receipts()) == 1


async def receipt_of(stand: Stand) -> Finished:
    """Return the only receipt in the books, as its node would bring it again."""
    (row,) = await stand.receipts()
    return Finished(receipt=msgspec.msgpack.decode(row.body, type=SignedReceipt))


async def test_another_nodes_receipt_earns_its_thief_nothing(tmp_path: Path) -> None:
    honest, thief = ScriptedNode(1), ScriptedNode(2)
    async with a_market(tmp_path) as stand, stand.joined(honest):
        await stand.ask()
        stolen = await receipt_of(stand)
        async with stand.joined(thief) as connection:
            await connection.send([stolen])
            await eventually(
                lambda: any(isinstance(one, ReceiptTaken | ReceiptRefused) for one in thief.received)
            )
        assert await stand.earned(thief) == 0
        assert len(await stand.receipts()) == 1


async def test_tokens_after_the_end_change_nothing(tmp_path: Path) -> None:
    async def runs_on(work: Work) -> None:
        await work.tokens([*b"hello", EOS])
        await work.finish(Finish.EOS)
        for _ in range(50):
            await work.send([work.a_tokens_frame(b"more", "more")])
        await work.finish(Finish.EOS)

    node = ScriptedNode(1, runs_on)
    async with a_market(tmp_path) as stand, stand.joined(node):
        running = await stand.market.submit(a_request())
        events = [event async for event in running]
        assert "".join(event.text for event in events if isinstance(event, Delta)) == "hello"
        await eventually(lambda: any(isinstance(one, ReceiptRefused) for one in node.received))
        assert (await stand.account()).spent == WHOLE
        assert len(await stand.receipts()) == 1


async def test_text_without_tokens_is_misbehaviour_and_another_finishes(tmp_path: Path) -> None:
    async def floods(work: Work) -> None:
        for _ in range(60):
            await work.tokens([], "x" * 100_000)

    flooding = ScriptedNode(1, floods)
    async with a_market(tmp_path) as stand, stand.joined(flooding):
        running = await stand.market.submit(a_request(parameters=Parameters(max_tokens=100_000)))
        async with stand.joined(ScriptedNode(2)):
            text, _, completed = await answer_of(running)
            assert (text, completed.charge) == ("hello", WHOLE)
        assert stand.history.of(flooding.address).rests_until_ms > 0


async def test_a_frame_of_very_many_tokens_is_misbehaviour_and_another_finishes(tmp_path: Path) -> None:
    async def floods(work: Work) -> None:
        await work.tokens([*b"a"] * 60_000, "")
        await work.finish(Finish.HANDED_OVER)

    flooding = ScriptedNode(1, floods)
    async with a_market(tmp_path) as stand, stand.joined(flooding):
        running = await stand.market.submit(a_request(parameters=Parameters(max_tokens=100_000)))
        async with stand.joined(ScriptedNode(2)):
            text, _, completed = await answer_of(running)
            assert (text, completed.charge) == ("hello", WHOLE)
        assert stand.history.of(flooding.address).rests_until_ms > 0
