"""A node that does what a script says and signs real receipts; it speaks websocket, or in memory."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from marketplace.domain.ports.link import NodeView
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tallystick.protocol.commitments import (
    NO_SKETCH,
    hello_digest,
    numerics_class_id,
    output_commitment,
    parameters_hash,
    prompt_commitment,
)
from tallystick.protocol.eip712 import Domain, offer_hash, sign_receipt
from tallystick.protocol.frames import (
    BLOB_CHUNK_BYTES,
    AnyFrame,
    Blob,
    BlobRequest,
    Cancel,
    Challenge,
    Failed,
    Finished,
    Heartbeat,
    Hello,
    Job,
    ModelOffer,
    Tokens,
    decode_frames,
    encode_frames,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.receipts import Finish, Offer, Receipt, SignedReceipt

MANIFEST = Manifest(
    name="echo", family="echo", tokenizer="bytes/v1", eos_ids=(256,), context_length=4096, numerics="echo"
)
MANIFEST_BYTES = canonical_json(MANIFEST)
MODEL_ID = model_id(MANIFEST_BYTES)
LEDGER = Address("0x" + "1e" * 20)
STAKE = Address("0x" + "57" * 20)
DOMAIN = Domain(31337, LEDGER)
EOS = 256


def operator_of(number: int) -> Address:
    """Return a made-up operator's address."""
    return Address("0x" + f"{number:040x}")


def key_of(number: int) -> SigningKey:
    """Return a node key of its own for each number."""
    return SigningKey(number.to_bytes(32, "big"))


def an_offer(**changes: Any) -> ModelOffer:
    """Return the echo model at the default price."""
    fields: dict[str, Any] = {
        "name": MANIFEST.name,
        "model_id": MODEL_ID,
        "manifest": MANIFEST_BYTES,
        "input_price": 300,
        "output_price": 300,
        "slots": 8,
    }
    return ModelOffer(**(fields | changes))


def a_view(node: Address, operator: Address, *, connected_at_ms: int = 1) -> NodeView:
    """Return an idle, eligible node as the market sees it."""
    return NodeView(
        address=node,
        operator=operator,
        region="",
        hardware="",
        asks={},
        running=0,
        draining=False,
        eligible=True,
        success=1.0,
        first_token_ms=0.0,
        tokens_per_second=0.0,
        connected_at_ms=connected_at_ms,
    )


@dataclass
class Work:
    """One attempt, in the hands of a script."""

    job: Job
    key: SigningKey
    send: Callable[[Sequence[AnyFrame]], Awaitable[None]]
    ids: list[int] = field(default_factory=list)
    text: str = ""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    numerics: str = MANIFEST.numerics

    async def tokens(self, ids: Sequence[int], text: str | None = None, **changes: Any) -> None:
        """Send tokens that go on where the attempt stands; `text` is theirs in UTF-8 if it is not given."""
        if text is None:
            text = bytes(one for one in ids if one < 256).decode()
        await self.send([self.a_tokens_frame(ids, text, **changes)])

    def a_tokens_frame(self, ids: Sequence[int], text: str, **changes: Any) -> Tokens:
        """Return the frame for tokens that go on where the attempt stands."""
        fields: dict[str, Any] = {
            "job_id": self.job.job_id,
            "attempt": self.job.attempt,
            "position": self.job.first_position + len(self.ids),
            "ids": tuple(ids),
            "text": text,
        }
        self.ids += ids
        self.text += text
        return Tokens(**(fields | changes))

    async def finish(self, finish: Finish, *, stop: str = "", **changes: Any) -> Finished:
        """Send a receipt that is honest but for `changes`; return it."""
        finished = Finished(receipt=self.a_receipt(finish, **changes), stop=stop)
        await self.send([finished])
        return finished

    async def fail(self, code: str) -> None:
        """Refuse the attempt."""
        await self.send([Failed(job_id=self.job.job_id, attempt=self.job.attempt, code=code, message=code)])

    def a_receipt(self, finish: Finish, signer: SigningKey | None = None, **changes: Any) -> SignedReceipt:
        """Return a signed receipt for what was sent, with `changes`."""
        job = self.job
        prompt = prompt_commitment(job.salt, job.prompt_ids)
        hashed = parameters_hash(job.parameters)
        now = time.time_ns() // 1_000_000
        offer = Offer(
            job_id=job.job_id,
            attempt=job.attempt,
            prompt_commitment=prompt,
            parameters_hash=hashed,
            job_seed=job.job_seed,
            first_position=job.first_position,
            input_price=job.input_price,
            output_price=job.output_price,
        )
        receipt = Receipt(
            job_id=job.job_id,
            attempt=job.attempt,
            offer_hash=offer_hash(offer),
            account=job.account,
            node=self.key.address,
            model_id=job.model_id,
            parameters_hash=hashed,
            job_seed=job.job_seed,
            prompt_commitment=prompt,
            output_commitment=output_commitment(job.salt, self.ids),
            prompt_tokens=len(job.prompt_ids) if job.bill_prompt else 0,
            output_tokens=len(self.ids),
            first_position=job.first_position,
            finish=finish,
            text_bytes=len(self.text.encode()),
            sketch_root=NO_SKETCH,
            numerics_class=numerics_class_id(self.numerics),
            input_price=job.input_price,
            output_price=job.output_price,
            fee_bps=job.fee_bps,
            started_at=now,
            finished_at=now,
            block_number=100,
            nonce=os.urandom(32),
        )
        return sign_receipt(DOMAIN, msgspec.structs.replace(receipt, **changes), signer or self.key)


Script = Callable[[Work], Awaitable[None]]


async def echo(work: Work) -> None:
    """Answer with the prompt's bytes and an end token, honestly."""
    answer = [*work.job.prompt_ids, EOS][work.job.first_position : work.job.parameters.max_tokens]
    await work.tokens(answer)
    await work.finish(Finish.EOS if answer and answer[-1] == EOS else Finish.LENGTH)


class ScriptedNode:
    """What a node does with frames, whatever carries them."""

    def __init__(
        self,
        number: int,
        script: Script = echo,
        *,
        models: tuple[ModelOffer, ...] | None = None,
        region: str = "",
        operator: Address | None = None,
    ) -> None:
        self.key = key_of(number)
        self.operator = operator or operator_of(1000 + number)
        self.models = models if models is not None else (an_offer(),)
        self.region = region
        self.script = script
        self.blobs: dict[bytes, bytes] = {}
        self.works: dict[tuple[bytes, int], Work] = {}
        self.received: list[AnyFrame] = []
        self.news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.send: Callable[[Sequence[AnyFrame]], Awaitable[None]] = _nowhere

    @property
    def address(self) -> Address:
        """The node's address."""
        return self.key.address

    def hello(self, challenge: Challenge, **changes: Any) -> Hello:
        """Return a proper Hello with `changes`."""
        fields: dict[str, Any] = {
            "version": challenge.version,
            "software": "scripted",
            "node": self.address,
            "operator": self.operator,
            "signature": self.key.sign_digest(hello_digest(challenge)),
            "models": self.models,
            "region": self.region,
        }
        return Hello(**(fields | changes))

    def receive(self, frame: AnyFrame) -> None:
        """Start, or go on, as the script says."""
        self.received.append(frame)
        self.news.set()
        match frame:
            case Job():
                work = Work(frame, self.key, self._send_now)
                self.works[frame.job_id, frame.attempt] = work
                self._spawn(self._work(work))
            case BlobRequest():
                self._spawn(self._send_blob(frame.sha256))
            case Cancel():
                self.works[frame.job_id, frame.attempt].cancelled.set()
            case _:
                pass

    async def until(self, is_it: Callable[[AnyFrame], bool], timeout: float = 5) -> AnyFrame:
        """Return the first frame that was or will be received and fits."""
        async with asyncio.timeout(timeout):
            while True:
                for frame in self.received:
                    if is_it(frame):
                        return frame
                self.news.clear()
                await self.news.wait()

    def stop(self) -> None:
        """Drop what runs."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_blob(self, sha256: bytes) -> None:
        data = self.blobs.get(sha256, b"")
        for offset in range(0, max(1, len(data)), BLOB_CHUNK_BYTES):
            piece = data[offset : offset + BLOB_CHUNK_BYTES]
            await self.send([Blob(sha256=sha256, offset=offset, total=len(data), data=piece)])

    async def _send_now(self, frames: Sequence[AnyFrame]) -> None:
        await self.send(frames)

    async def _work(self, work: Work) -> None:
        with contextlib.suppress(ConnectionError):
            await self.script(work)


async def _nowhere(frames: Sequence[AnyFrame]) -> None:
    raise ConnectionError("the node is not connected")


class NodeConnection:
    """A scripted node's websocket; `heartbeats` False makes it silent."""

    def __init__(self, node: ScriptedNode, socket: ClientConnection) -> None:
        self.node = node
        self.socket = socket
        self.closed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def send(self, frames: Sequence[AnyFrame]) -> None:
        """Send one message."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self.socket.send(encode_frames(frames))
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from error

    def start(self, *, heartbeats: bool = True) -> None:
        """Read, and send signs of life."""
        self.node.send = self.send
        self._tasks.append(asyncio.create_task(self._read()))
        if heartbeats:
            self._tasks.append(asyncio.create_task(self._beat()))

    def deafen(self) -> None:
        """Read nothing more."""
        self._tasks[0].cancel()
        self.socket.transport.pause_reading()

    async def close(self) -> None:
        """Leave in order."""
        for task in self._tasks:
            task.cancel()
        await self.socket.close()

    def vanish(self) -> None:
        """Leave like a process that was killed."""
        for task in self._tasks:
            task.cancel()
        self.node.send = _nowhere
        self.socket.transport.abort()

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                assert isinstance(message, bytes)
                for frame in decode_frames(message):
                    self.node.receive(frame)
        finally:
            self.closed.set()

    async def _beat(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self.send([Heartbeat(at_ms=0)])
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def connected(
    node: ScriptedNode, url: str, /, *, heartbeats: bool = True, **hello: Any
) -> AsyncIterator[NodeConnection]:
    """Connect `node` over websocket and shake hands; `hello` changes fields of its Hello."""
    async with connect(url, max_size=None, compression=None, proxy=None) as socket:
        connection = NodeConnection(node, socket)
        first = await socket.recv()
        assert isinstance(first, bytes)
        challenge = decode_frames(first)[0]
        assert isinstance(challenge, Challenge)
        await connection.send([node.hello(challenge, **hello)])
        connection.start(heartbeats=heartbeats)
        try:
            yield connection
        finally:
            node.stop()
            await connection.close()
