"""The hub over real websockets: who may come in, what is carried, and who is sent away."""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import pytest
from websockets.asyncio.client import connect

from marketplace.domain.ports.link import BlobRefused, NodeLost
from marketplace.transport.hub import HubRules, WebSocketHub
from marketplace.transport.reader import SHORTEST_PAUSE_SECONDS
from tallystick.protocol.frames import (
    AnyFrame,
    Cancel,
    Challenge,
    Draining,
    Failed,
    Finished,
    Goodbye,
    Heartbeat,
    Job,
    Offers,
    ReceiptRefused,
    Tokens,
    Welcome,
    decode_frames,
    encode_frames,
)
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.hubs import COORDINATOR, HEAD, Notes, StakeList, a_hub, eventually, running_hub
from tests.support.nodes import MODEL_ID, NodeConnection, ScriptedNode, Work, an_offer, connected, key_of


def a_job(**changes: object) -> Job:
    fields: dict[str, object] = {
        "job_id": os.urandom(32),
        "attempt": 0,
        "model_id": MODEL_ID,
        "account": COORDINATOR.address,
        "prompt_ids": tuple(b"hello"),
        "prompt_text": "hello",
        "salt": bytes(32),
        "parameters": Parameters(max_tokens=64),
        "job_seed": bytes(32),
        "input_price": 300,
        "output_price": 300,
        "fee_bps": 500,
    }
    return Job(**(fields | changes))  # type: ignore[arg-type]


async def goodbye_of(node: ScriptedNode) -> Goodbye:
    frame = await node.until(lambda frame: isinstance(frame, Goodbye))
    assert isinstance(frame, Goodbye)
    return frame


async def frames_of(hub: WebSocketHub, node: ScriptedNode, job: Job) -> list[AnyFrame]:
    stream = await hub.open(node.address, job)
    frames: list[AnyFrame] = [frame async for frame in stream]
    stream.close()
    return frames


async def test_a_registered_node_is_welcomed_and_its_offers_are_listed() -> None:
    node, notes = ScriptedNode(1, region="eu"), Notes()
    hub = a_hub(StakeList(node), notes)
    async with running_hub(hub) as url, connected(node, url):
        welcome = await node.until(lambda frame: isinstance(frame, Welcome))
        assert isinstance(welcome, Welcome)
        assert (welcome.heartbeat_ms, welcome.block_number, welcome.epoch) == (100, 100, 3)
        (view,) = hub.serving(MODEL_ID)
        assert (view.address, view.operator, view.region) == (node.address, node.operator, "eu")
        assert view.asks[MODEL_ID].input_price == 300
        assert notes.joins == [node.address]
        beat = await node.until(lambda frame: isinstance(frame, Heartbeat))
        assert isinstance(beat, Heartbeat)
        assert beat.block_number == HEAD.block_number
    await eventually(lambda: notes.leaves == [node.address])
    assert hub.serving(MODEL_ID) == []


async def test_a_job_goes_to_the_node_and_its_tokens_and_receipt_come_back() -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        tokens, finished = await frames_of(hub, node, a_job())
        assert isinstance(tokens, Tokens)
        assert tokens.ids == (*b"hello", 256)
        assert isinstance(finished, Finished)
        assert finished.receipt.receipt.output_tokens == 6
        assert hub.nodes()[0].running == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 99}, "version"),
        ({"signature": bytes(65)}, "signature"),
        ({"node": key_of(2).address}, "signature"),
        ({"operator": key_of(3).address}, "operator"),
        ({"models": tuple(an_offer() for _ in range(65))}, "too_many_models"),
        ({"models": (an_offer(manifest=bytes(300_000)),)}, "too_long"),
        ({"region": "x" * 201}, "too_long"),
        ({"models": (an_offer(output_price=10**9 + 1),)}, "price"),
    ],
)
async def test_a_hello_that_is_not_right_is_turned_away(changes: dict[str, Any], code: str) -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url, **changes):
        assert (await goodbye_of(node)).code == code
        assert hub.nodes() == []


async def test_a_hello_signed_for_another_challenge_is_turned_away() -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connect(url, proxy=None) as first, connect(url, proxy=None) as second:
        challenge = decode_frames(await first.recv(decode=False))[0]
        await second.recv()
        assert isinstance(challenge, Challenge)
        await second.send(encode_frames([node.hello(challenge)]))
        (goodbye,) = decode_frames(await second.recv(decode=False))
        assert isinstance(goodbye, Goodbye)
        assert goodbye.code == "signature"


async def test_a_node_that_is_not_registered_is_told_how_to_register() -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(), Notes())
    async with running_hub(hub) as url, connected(node, url):
        goodbye = await goodbye_of(node)
        assert (goodbye.code, goodbye.retry) == ("not_registered", True)
        assert "tallystick provider register" in goodbye.message


async def test_a_node_that_loses_its_registration_is_sent_away() -> None:
    node = ScriptedNode(1)
    stakes = StakeList(node)
    hub = a_hub(stakes, Notes(), HubRules(heartbeat_ms=100, stake_refresh=0.05))
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        stakes.register(node, eligible=False)
        await eventually(lambda: not hub.nodes()[0].eligible)
        stakes.register(node, active=False)
        assert (await goodbye_of(node)).code == "not_registered"


async def test_a_peer_that_never_says_hello_is_let_go() -> None:
    hub = a_hub(StakeList(), Notes(), HubRules(hello_timeout=0.05))
    async with running_hub(hub) as url, connect(url, proxy=None) as socket:
        await socket.recv()
        (goodbye,) = decode_frames(await socket.recv(decode=False))
        assert isinstance(goodbye, Goodbye)
        assert goodbye.code == "timeout"


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01", b"", "text", encode_frames([Cancel(job_id=bytes(32), attempt=0)])]
)
async def test_garbage_ends_the_connection(garbage: bytes | str) -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url) as connection:
        await node.until(lambda frame: isinstance(frame, Welcome))
        await connection.socket.send(garbage)
        assert (await goodbye_of(node)).code == "garbage"
        await eventually(lambda: hub.nodes() == [])


async def test_text_in_place_of_a_hello_is_answered() -> None:
    hub = a_hub(StakeList(), Notes())
    async with running_hub(hub) as url, connect(url, proxy=None) as socket:
        await socket.recv()
        await socket.send("hello")
        (goodbye,) = decode_frames(await socket.recv(decode=False))
        assert isinstance(goodbye, Goodbye)
        assert goodbye.code == "garbage"


async def test_of_many_offers_in_a_message_the_last_holds_and_is_the_only_one_looked_at() -> None:
    """Each costs as much as there are nodes and waiting jobs; 4096 fit into one message."""
    node, notes = ScriptedNode(1), Notes()
    hub = a_hub(StakeList(node), notes)
    async with running_hub(hub) as url, connected(node, url) as connection:
        await eventually(lambda: len(hub.nodes()) == 1)
        looked: list[int] = []
        index = hub._index
        hub._index = lambda: (looked.append(1), index())[1]  # type: ignore[method-assign]
        many = [Offers(models=(an_offer(input_price=price),)) for price in range(4096)]
        await connection.send(many)
        await eventually(lambda: bool(looked))
        (ask,) = hub.nodes()[0].asks.values()
        assert (ask.input_price, len(looked)) == (4095, 1)


async def test_a_node_that_offers_again_and_again_is_heard_no_faster() -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes(), HubRules(node_timeout=60, offers_rate=100, offers_burst=5))
    async with running_hub(hub) as url, connected(node, url) as connection:
        await eventually(lambda: len(hub.nodes()) == 1)
        began = time.monotonic()
        for price in range(55):
            await connection.send([Offers(models=(an_offer(input_price=price),))])
        await connection.send([Draining()])
        await eventually(lambda: hub.nodes()[0].draining)
        assert time.monotonic() - began > (55 - 5) / 100 - 2 * SHORTEST_PAUSE_SECONDS


async def _heartbeats(connection: NodeConnection, count: int) -> None:
    for _ in range(count):
        await connection.send([Heartbeat(at_ms=0)])
        await asyncio.sleep(0)


async def test_a_node_that_sends_more_than_it_may_is_heard_no_faster() -> None:
    node = ScriptedNode(1)
    rules = HubRules(heartbeat_ms=100, node_timeout=60, messages_rate=100, messages_burst=50)
    hub = a_hub(StakeList(node), Notes(), rules)
    async with running_hub(hub) as url, connected(node, url, heartbeats=False) as connection:
        await node.until(lambda frame: isinstance(frame, Welcome))
        began = time.monotonic()
        await _heartbeats(connection, 150)
        await connection.send([Draining()])
        await eventually(lambda: hub.nodes()[0].draining)
        # 151 messages: 50 at once, the others as they may come.
        assert time.monotonic() - began > (151 - 50) / 100 - 2 * SHORTEST_PAUSE_SECONDS


async def _never(work: Work) -> None:
    await asyncio.Event().wait()


async def test_a_silent_node_is_dropped_and_its_jobs_are_lost() -> None:
    node, notes = ScriptedNode(1, _never), Notes()
    hub = a_hub(StakeList(node), notes)
    async with running_hub(hub) as url, connected(node, url, heartbeats=False):
        await eventually(lambda: len(hub.nodes()) == 1)
        with pytest.raises(NodeLost, match="silent"):
            await frames_of(hub, node, a_job())
        await eventually(lambda: hub.nodes() == [])
        assert (await goodbye_of(node)).code == "silent"


async def test_a_node_that_speaks_but_does_not_listen_is_dropped() -> None:
    node = ScriptedNode(1, _never)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url) as connection:
        await eventually(lambda: len(hub.nodes()) == 1)
        connection.deafen()
        # More than sockets hold; its heartbeats still come.
        streams = [await hub.open(node.address, a_job(prompt_text="x" * 1_000_000)) for _ in range(16)]
        for stream in streams:
            with pytest.raises(NodeLost, match="taken nothing"):
                await anext(aiter(stream))
        await eventually(lambda: hub.nodes() == [])


async def test_a_node_that_vanishes_loses_its_jobs_at_once() -> None:
    async def dies(work: Work) -> None:
        await work.tokens(b"ab")
        connection.vanish()

    node = ScriptedNode(1, dies)
    hub = a_hub(StakeList(node), Notes(), HubRules(node_timeout=60))
    connection: NodeConnection
    async with running_hub(hub) as url, connected(node, url) as connection:
        await eventually(lambda: len(hub.nodes()) == 1)
        stream = await hub.open(node.address, a_job())
        first = await anext(aiter(stream))
        assert isinstance(first, Tokens)
        assert first.ids == (97, 98)
        with pytest.raises(NodeLost):
            await anext(aiter(stream))
        with pytest.raises(NodeLost):
            await hub.open(node.address, a_job())


async def test_a_newer_connection_replaces_the_older() -> None:
    older, newer, notes = ScriptedNode(1, _never), ScriptedNode(1), Notes()
    hub = a_hub(StakeList(older), notes)
    async with running_hub(hub) as url, connected(older, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        stream = await hub.open(older.address, a_job())
        async with connected(newer, url):
            with pytest.raises(NodeLost, match="connected again"):
                await anext(aiter(stream))
            goodbye = await goodbye_of(older)
            assert (goodbye.code, goodbye.retry) == ("replaced", False)
            assert len(await frames_of(hub, newer, a_job())) == 2
            assert len(hub.nodes()) == 1
            assert notes.leaves == []


async def test_cancel_reaches_the_node_and_the_stream_ends_with_its_receipt() -> None:
    async def until_cancelled(work: Work) -> None:
        await work.tokens(b"ab")
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    node = ScriptedNode(1, until_cancelled)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        stream = await hub.open(node.address, a_job())
        frames: list[AnyFrame] = []
        async for frame in stream:
            frames.append(frame)
            if len(frames) == 1:
                await stream.cancel()
        assert isinstance(frames[-1], Finished)
        assert frames[-1].receipt.receipt.finish == Finish.CANCELLED


async def test_a_receipt_that_nobody_waits_for_is_answered_by_the_watcher() -> None:
    node, notes = (
        ScriptedNode(1, _never),
        Notes(answer=ReceiptRefused(receipt_id=bytes(32), reason="unknown")),
    )
    hub = a_hub(StakeList(node), notes)
    async with running_hub(hub) as url, connected(node, url) as connection:
        await node.until(lambda frame: isinstance(frame, Welcome))
        work = Work(a_job(), node.key, connection.send)
        await work.finish(Finish.LENGTH)
        refused = await node.until(lambda frame: isinstance(frame, ReceiptRefused))
        assert refused == notes.answer
        assert len(notes.late) == 1


async def test_more_frames_than_the_job_can_have_break_the_stream() -> None:
    async def chatters(work: Work) -> None:
        while True:
            await work.send([Tokens(job_id=work.job.job_id, attempt=0, position=0, ids=(), text="")] * 100)

    node = ScriptedNode(1, chatters)
    hub = a_hub(StakeList(node), Notes(), HubRules(node_timeout=60, bytes_burst=2**40, messages_burst=2**40))
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        with pytest.raises(NodeLost, match="more frames"):
            await frames_of(hub, node, a_job())


async def test_a_refused_job_ends_its_stream() -> None:
    async def is_busy(work: Work) -> None:
        await work.fail("busy")

    node = ScriptedNode(1, is_busy)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        (failed,) = await frames_of(hub, node, a_job())
        assert isinstance(failed, Failed)
        assert failed.code == "busy"


async def test_frames_to_an_operator_reach_all_of_its_nodes() -> None:
    one, two, other = ScriptedNode(1), ScriptedNode(2), ScriptedNode(3)
    two.operator = one.operator
    hub = a_hub(StakeList(one, two, other), Notes())
    news = ReceiptRefused(receipt_id=bytes(32), reason="a message to pass on")
    async with running_hub(hub) as url, connected(one, url), connected(two, url), connected(other, url):
        await eventually(lambda: len(hub.nodes()) == 3)
        assert await hub.send(one.operator, news) == 2
        await one.until(lambda frame: frame == news)
        await two.until(lambda frame: frame == news)
        assert hub.tell(other.address, Heartbeat(at_ms=77))
        await other.until(lambda frame: frame == Heartbeat(at_ms=77))
        assert news not in other.received
        assert not hub.tell(key_of(9).address, news)


async def _send_all(connection: NodeConnection, frames: Sequence[AnyFrame]) -> None:
    for frame in frames:
        await connection.send([frame])


async def test_new_offers_replace_the_old_and_draining_is_seen() -> None:
    node, notes = ScriptedNode(1), Notes()
    hub = a_hub(StakeList(node), notes)
    async with running_hub(hub) as url, connected(node, url) as connection:
        await node.until(lambda frame: isinstance(frame, Welcome))
        await _send_all(connection, [Offers(models=(an_offer(input_price=7),)), Draining()])
        await eventually(lambda: hub.nodes()[0].draining)
        assert hub.serving(MODEL_ID)[0].asks[MODEL_ID].input_price == 7
        assert len(notes.offers) == 1
        await _send_all(connection, [Offers(models=())])
        await eventually(lambda: hub.serving(MODEL_ID) == [])


async def test_a_closing_hub_says_goodbye() -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        await hub.close()
        goodbye = await goodbye_of(node)
        assert (goodbye.code, goodbye.retry) == ("closing", True)


async def test_a_full_hub_turns_nodes_away() -> None:
    one, two = ScriptedNode(1), ScriptedNode(2)
    hub = a_hub(StakeList(one, two), Notes(), HubRules(max_nodes=1))
    async with running_hub(hub) as url, connected(one, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        async with connect(url, proxy=None) as socket:
            (goodbye,) = decode_frames(await socket.recv(decode=False))
            assert isinstance(goodbye, Goodbye)
            assert (goodbye.code, goodbye.retry) == ("full", True)


async def test_an_unknown_blob_is_refused() -> None:
    node = ScriptedNode(1)
    hub = a_hub(StakeList(node), Notes())
    async with running_hub(hub) as url, connected(node, url):
        await eventually(lambda: len(hub.nodes()) == 1)
        with pytest.raises(BlobRefused):
            await hub.fetch_blob(node.address, bytes(32), limit=100)
