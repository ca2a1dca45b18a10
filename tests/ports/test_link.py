"""What every ProviderLink does: the websocket hub and its twin in memory."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

import pytest

from marketplace.domain.history import History
from marketplace.domain.ports.clock import SystemClock
from marketplace.domain.ports.link import BlobRefused, NodeLost, ProviderLink
from marketplace.transport import session
from marketplace.transport.memory import MemoryHub
from tallystick.protocol.frames import (
    BLOB_CHUNK_BYTES,
    AnyFrame,
    Blob,
    BlobRequest,
    Draining,
    Failed,
    Finished,
    Heartbeat,
    Job,
    Offers,
    ReceiptRefused,
    Tokens,
)
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.hubs import IDENTITY, Notes, StakeList, a_hub, eventually, running_hub
from tests.support.nodes import MODEL_ID, ScriptedNode, Work, an_offer, connected, key_of


@dataclass
class Line:
    """A node's connection, whatever carries it."""

    send: Callable[[list[AnyFrame]], Awaitable[None]]
    cut: Callable[[], None]


class Subject:
    """A link, and how nodes come to it."""

    def __init__(self, link: ProviderLink, notes: Notes) -> None:
        self.link = link
        self.notes = notes

    def join(self, node: ScriptedNode) -> contextlib.AbstractAsyncContextManager[Line]:
        raise NotImplementedError


class OverSockets(Subject):
    url: str
    stakes: StakeList

    @contextlib.asynccontextmanager
    async def join(self, node: ScriptedNode) -> AsyncIterator[Line]:
        self.stakes.register(node)
        count = len(self.notes.joins)
        async with connected(node, self.url) as connection:
            await eventually(lambda: len(self.notes.joins) > count)
            yield Line(connection.send, connection.vanish)


class InMemory(Subject):
    hub: MemoryHub
    stakes: StakeList

    @contextlib.asynccontextmanager
    async def join(self, node: ScriptedNode) -> AsyncIterator[Line]:
        self.stakes.register(node)
        stake = await self.stakes.node_stake(node.address)
        connection = self.hub.connect(node.hello(IDENTITY.challenge()), stake, node.receive)
        node.send = connection.send
        try:
            yield Line(connection.send, connection.leave)
        finally:
            node.stop()
            connection.leave()


@pytest.fixture(params=["websocket", "memory"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    notes, stakes = Notes(), StakeList()
    if request.param == "memory":
        hub = MemoryHub(watcher=notes, history=History(), clock=SystemClock())
        inside = InMemory(hub, notes)
        inside.hub, inside.stakes = hub, stakes
        yield inside
        return
    sockets = a_hub(stakes, notes)
    async with running_hub(sockets) as url:
        outside = OverSockets(sockets, notes)
        outside.url, outside.stakes = url, stakes
        yield outside


def a_job(**changes: object) -> Job:
    fields: dict[str, object] = {
        "job_id": os.urandom(32),
        "attempt": 0,
        "model_id": MODEL_ID,
        "account": key_of(5).address,
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


async def test_a_job_brings_tokens_and_a_receipt(subject: Subject) -> None:
    node = ScriptedNode(1)
    async with subject.join(node):
        stream = await subject.link.open(node.address, a_job())
        assert subject.link.nodes()[0].running == 1
        tokens, finished = [frame async for frame in stream]
        stream.close()
        assert isinstance(tokens, Tokens)
        assert isinstance(finished, Finished)
        assert subject.link.nodes()[0].running == 0


async def test_attempts_of_one_node_do_not_mix(subject: Subject) -> None:
    node = ScriptedNode(1)
    async with subject.join(node):
        jobs = [a_job(prompt_ids=tuple(text.encode())) for text in ("one", "two", "three")]
        streams = [await subject.link.open(node.address, job) for job in jobs]
        for job, stream in zip(jobs, streams, strict=True):
            tokens, _ = [frame async for frame in stream]
            assert isinstance(tokens, Tokens)
            assert tokens.ids[:-1] == job.prompt_ids


async def test_a_failed_attempt_ends_the_stream(subject: Subject) -> None:
    async def refuses(work: Work) -> None:
        await work.fail("busy")

    node = ScriptedNode(1, refuses)
    async with subject.join(node):
        stream = await subject.link.open(node.address, a_job())
        (failed,) = [frame async for frame in stream]
        assert isinstance(failed, Failed)


async def test_a_cut_line_loses_the_attempt_after_what_came(subject: Subject) -> None:
    async def dies(work: Work) -> None:
        await work.tokens(b"ab")
        line.cut()

    node = ScriptedNode(1, dies)
    async with subject.join(node) as line:
        stream = await subject.link.open(node.address, a_job())
        first = await anext(aiter(stream))
        assert isinstance(first, Tokens)
        with pytest.raises(NodeLost):
            await anext(aiter(stream))
        await eventually(lambda: subject.notes.leaves == [node.address])
        assert list(subject.link.nodes()) == []
        with pytest.raises(NodeLost):
            await subject.link.open(node.address, a_job())


async def test_cancel_reaches_the_node(subject: Subject) -> None:
    async def waits(work: Work) -> None:
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    node = ScriptedNode(1, waits)
    async with subject.join(node):
        stream = await subject.link.open(node.address, a_job())
        await node.until(lambda frame: isinstance(frame, Job))
        await stream.cancel()
        (finished,) = [frame async for frame in stream]
        assert isinstance(finished, Finished)


async def test_an_interrupted_stream_raises_after_what_came(subject: Subject) -> None:
    async def says_one_thing(work: Work) -> None:
        await work.tokens(b"a")

    node = ScriptedNode(1, says_one_thing)
    async with subject.join(node):
        stream = await subject.link.open(node.address, a_job())
        await anext(aiter(stream))
        stream.interrupt("enough")
        with pytest.raises(NodeLost, match="enough"):
            await anext(aiter(stream))


async def test_a_closed_attempt_hears_nothing_more_and_its_receipt_is_late(subject: Subject) -> None:
    async def waits(work: Work) -> None:
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    subject.notes.answer = ReceiptRefused(receipt_id=bytes(32), reason="late")
    node = ScriptedNode(1, waits)
    async with subject.join(node):
        stream = await subject.link.open(node.address, a_job())
        await node.until(lambda frame: isinstance(frame, Job))
        await stream.cancel()
        stream.close()
        await node.until(lambda frame: isinstance(frame, ReceiptRefused))
        assert len(subject.notes.late) == 1


async def test_a_newer_connection_takes_the_place_of_the_older(subject: Subject) -> None:
    async def never(work: Work) -> None:
        await work.cancelled.wait()

    older, newer = ScriptedNode(1, never), ScriptedNode(1)
    async with subject.join(older):
        stream = await subject.link.open(older.address, a_job())
        async with subject.join(newer):
            with pytest.raises(NodeLost):
                await anext(aiter(stream))
            again = await subject.link.open(newer.address, a_job())
            assert len([frame async for frame in again]) == 2
            assert subject.notes.leaves == []


async def test_offers_and_draining_change_what_is_seen(subject: Subject) -> None:
    node = ScriptedNode(1)
    async with subject.join(node) as line:
        await line.send(
            [Offers(models=(an_offer(input_price=7, paused=True),)), Draining(), Heartbeat(at_ms=0)]
        )
        await eventually(lambda: subject.link.nodes()[0].draining)
        (view,) = subject.link.serving(MODEL_ID)
        assert (view.asks[MODEL_ID].input_price, view.asks[MODEL_ID].paused) == (7, True)


async def test_frames_go_to_all_nodes_of_an_operator_or_to_one(subject: Subject) -> None:
    one, two, other = ScriptedNode(1), ScriptedNode(2), ScriptedNode(3)
    two.operator = one.operator
    news = ReceiptRefused(receipt_id=bytes(32), reason="news")
    async with subject.join(one), subject.join(two), subject.join(other):
        assert await subject.link.send(one.operator, news) == 2
        await one.until(lambda frame: frame == news)
        await two.until(lambda frame: frame == news)
        assert subject.link.tell(other.address, Heartbeat(at_ms=5))
        await other.until(lambda frame: frame == Heartbeat(at_ms=5))
        assert not subject.link.tell(key_of(8).address, news)
        assert news not in other.received


async def test_a_blob_is_fetched_in_pieces_and_checked(subject: Subject) -> None:
    node = ScriptedNode(1)
    blob = os.urandom(1_200_000)
    digest = sha256(blob).digest()
    node.blobs = {digest: blob, bytes(32): b"not what its name says"}
    async with subject.join(node):
        assert await subject.link.fetch_blob(node.address, digest, limit=2_000_000) == blob
        with pytest.raises(BlobRefused, match="limit"):
            await subject.link.fetch_blob(node.address, digest, limit=1_000_000)
        with pytest.raises(BlobRefused, match="another hash"):
            await subject.link.fetch_blob(node.address, bytes(32), limit=1000)
        with pytest.raises(BlobRefused, match="does not have"):
            await subject.link.fetch_blob(node.address, b"\1" * 32, limit=1000)


async def test_a_blob_of_a_node_that_goes_is_lost(subject: Subject) -> None:
    node = ScriptedNode(1)
    async with subject.join(node) as line:
        node.blobs = {}
        node.send = _swallow
        fetching = asyncio.create_task(subject.link.fetch_blob(node.address, bytes(32), limit=10))
        await node.until(lambda frame: isinstance(frame, BlobRequest))
        line.cut()
        with pytest.raises(NodeLost):
            await fetching


async def test_a_node_that_sends_nothing_more_of_a_file_is_not_waited_for(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PIECE_SECONDS", 0.2)
    blob = os.urandom(BLOB_CHUNK_BYTES + 1)
    digest, node = sha256(blob).digest(), ScriptedNode(1)
    half = Blob(sha256=digest, offset=0, total=len(blob), data=blob[:BLOB_CHUNK_BYTES])
    async with subject.join(node) as line:
        answers, node.send = node.send, _swallow
        for said in ([], [half]):
            fetching = asyncio.create_task(subject.link.fetch_blob(node.address, digest, limit=len(blob)))
            await node.until(lambda frame: isinstance(frame, BlobRequest))
            await line.send([*said])
            with pytest.raises(BlobRefused, match="nothing more of the file came"):
                await asyncio.wait_for(fetching, 20)
            node.received.clear()
        node.blobs, node.send = {digest: blob}, answers
        assert await subject.link.fetch_blob(node.address, digest, limit=len(blob)) == blob


async def _swallow(frames: object) -> None:
    return None
