"""One connected node as the coordinator sees it, however it is connected."""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256 as sha256_of
from typing import Final, Protocol

from marketplace.domain.history import NodeHistory
from marketplace.domain.ports.link import Ask, BlobRefused, JobTooLarge, NodeLost, NodeView
from marketplace.domain.ports.stake import NodeStake
from marketplace.transport.stream import AttemptFrame, AttemptKey, AttemptStream
from tallystick.protocol.frames import (
    MAX_MESSAGE_BYTES,
    AnyFrame,
    Blob,
    BlobRequest,
    Finished,
    Hello,
    Job,
    ModelOffer,
    encode_frames,
)
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd

PIECE_SECONDS: Final = 15.0
"""How long a node may take for the next piece of a file, 512 KiB at most."""
FILE_SECONDS: Final = 600.0
"""How long it may take for the whole file."""


class Outlet(Protocol):
    """The way to the node."""

    def send(self, frame: AnyFrame) -> None:
        """Queue `frame`; never blocks, and drops it when the connection is gone."""


class _BlobTransfer:
    """A file that is on its way; `give_up` is called when nothing more of it comes in time."""

    def __init__(self, limit: int, give_up: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        self.limit = limit
        self.data = bytearray()
        self.done: asyncio.Future[bytes] = loop.create_future()
        self._next_piece: asyncio.TimerHandle | None = None
        self._whole = loop.call_later(FILE_SECONDS, give_up, f"the file was not here after {FILE_SECONDS} s")
        self._give_up = give_up
        self.expect()

    def expect(self) -> None:
        """Wait for the next piece from now on."""
        if self._next_piece is not None:
            self._next_piece.cancel()
        why = f"nothing more of the file came for {PIECE_SECONDS} s"
        self._next_piece = asyncio.get_running_loop().call_later(PIECE_SECONDS, self._give_up, why)

    def succeed(self) -> None:
        """Hand the file to those who wait for it."""
        self._stop()
        self.done.set_result(bytes(self.data))

    def fail(self, error: Exception) -> None:
        """Tell those who wait why there is no file."""
        self._stop()
        self.done.set_exception(error)
        # The one who asked may be gone; an exception that nobody fetches is then no news.
        self.done.exception()

    def _stop(self) -> None:
        self._whole.cancel()
        if self._next_piece is not None:
            self._next_piece.cancel()


class Session:
    """A node's offers, its running attempts and what it is asked for besides."""

    def __init__(
        self, hello: Hello, stake: NodeStake, history: NodeHistory, outlet: Outlet, *, connected_at_ms: int
    ) -> None:
        self.address: Address = hello.node
        self.operator: Address = stake.operator
        self.connected_at_ms = connected_at_ms
        self._hello = hello
        self._history = history
        self._outlet = outlet
        self._asks = asks_of(hello.models)
        self._eligible = stake.eligible
        self._draining = False
        self._suspended = False
        self._streams: dict[AttemptKey, AttemptStream] = {}
        self._transfers: dict[bytes, _BlobTransfer] = {}
        self._lost: str | None = None
        self._view: NodeView | None = None

    @property
    def view(self) -> NodeView:
        """The node as it is now; rebuilt only after something has changed."""
        if self._view is None:
            self._view = NodeView(
                address=self.address,
                operator=self.operator,
                region=self._hello.region,
                hardware=self._hello.hardware,
                asks=self._asks,
                running=len(self._streams),
                draining=self._draining,
                eligible=self._eligible and not self._suspended,
                success=self._history.success,
                first_token_ms=self._history.first_token_ms,
                tokens_per_second=self._history.tokens_per_second,
                connected_at_ms=self.connected_at_ms,
            )
        return self._view

    def set_offers(self, models: Sequence[ModelOffer]) -> None:
        """Replace the node's models and prices."""
        self._asks = asks_of(models)
        self._view = None

    def set_draining(self) -> None:
        """The node takes no new jobs from now on."""
        self._draining = True
        self._view = None

    def set_stake(self, stake: NodeStake) -> None:
        """Take what the chain says now."""
        if stake.eligible != self._eligible:
            self._eligible = stake.eligible
            self._view = None

    def set_suspended(self, suspended: bool) -> None:
        """Take the market's operator's word on whether the node gets jobs."""
        if suspended != self._suspended:
            self._suspended = suspended
            self._view = None

    def open(self, job: Job) -> AttemptStream:
        """Send `job` and return its frames to come. Raises NodeLost or JobTooLarge."""
        if self._lost is not None:
            raise NodeLost(self._lost)
        check_fits(job)
        key = (job.job_id, job.attempt)
        room = job.parameters.max_tokens - job.first_position
        stream = AttemptStream(key, room=room, send=self._outlet.send, forget=self._forget)
        self._streams[key] = stream
        self._view = None
        self._outlet.send(job)
        return stream

    def push(self, key: AttemptKey, frame: AttemptFrame) -> bool:
        """Hand `frame` to whoever waits for it; False if nobody does."""
        stream = self._streams.get(key)
        if stream is None:
            return False
        stream.push(frame)
        return True

    def is_running(self, key: AttemptKey) -> bool:
        """Say whether somebody waits for this attempt."""
        return key in self._streams

    def send(self, frame: AnyFrame) -> None:
        """Queue `frame` for the node."""
        self._outlet.send(frame)

    async def fetch_blob(self, sha256: bytes, *, limit: int) -> bytes:
        """Return the file with this hash. Raises NodeLost, or BlobRefused (also if it is late)."""
        if self._lost is not None:
            raise NodeLost(self._lost)
        transfer = self._transfers.get(sha256)
        if transfer is None:
            transfer = _BlobTransfer(limit, lambda problem: self._refuse_blob(sha256, problem))
            self._transfers[sha256] = transfer
            self._outlet.send(BlobRequest(sha256=sha256))
        return await asyncio.shield(transfer.done)

    def receive_blob(self, piece: Blob) -> None:
        """Add a piece of a file; pieces that were not asked for are dropped."""
        transfer = self._transfers.get(piece.sha256)
        if transfer is None:
            return
        problem = _problem_with(piece, transfer)
        if problem is None:
            transfer.data += piece.data
            if len(transfer.data) < piece.total:
                transfer.expect()
                return
            if sha256_of(transfer.data).digest() != piece.sha256:
                problem = "the file has another hash than was asked for"
        if problem is None:
            del self._transfers[piece.sha256]
            transfer.succeed()
        else:
            self._refuse_blob(piece.sha256, problem)

    def lose(self, reason: str) -> None:
        """End everything that waits for the node; it does not come back as this session."""
        if self._lost is not None:
            return
        self._lost = reason
        for stream in list(self._streams.values()):
            stream.interrupt(reason)
        for transfer in self._transfers.values():
            transfer.fail(NodeLost(reason))
        self._transfers.clear()

    def _refuse_blob(self, sha256: bytes, problem: str) -> None:
        self._transfers.pop(sha256).fail(BlobRefused(f"{self.address}: {problem}"))

    def _forget(self, key: AttemptKey) -> None:
        self._streams.pop(key, None)
        self._view = None


def asks_of(models: Sequence[ModelOffer]) -> dict[ModelId, Ask]:
    """Return what a node asks, by model."""
    return {
        ModelId(offer.model_id): Ask(
            input_price=NanoUsd(offer.input_price),
            output_price=NanoUsd(offer.output_price),
            slots=offer.slots,
            paused=offer.paused,
        )
        for offer in models
    }


def check_fits(job: Job) -> None:
    """Raise JobTooLarge for a job that no message holds: it would not be sent, and its node be waited for."""
    # Five bytes at most for an id, four for a character: what must fit is not encoded for nothing.
    tokens = len(job.prompt_ids) + len(job.resume_ids) + len(job.parameters.logit_bias)
    at_most = 16 * tokens + 4 * len(job.prompt_text)
    if at_most > MAX_MESSAGE_BYTES // 2 and len(encode_frames([job])) > MAX_MESSAGE_BYTES:
        raise JobTooLarge(
            f"the job with its {len(job.resume_ids)} tokens so far exceeds the {MAX_MESSAGE_BYTES} bytes "
            "that one message to a node may have"
        )


def key_of(frame: AttemptFrame) -> AttemptKey:
    """Return which attempt a frame belongs to."""
    if isinstance(frame, Finished):
        return frame.receipt.receipt.job_id, frame.receipt.receipt.attempt
    return frame.job_id, frame.attempt


def _problem_with(piece: Blob, transfer: _BlobTransfer) -> str | None:
    if piece.total == 0:
        return "it does not have the file"
    if piece.total > transfer.limit:
        return f"the file has {piece.total} bytes, more than the limit of {transfer.limit}"
    if piece.offset != len(transfer.data):
        return f"a piece at {piece.offset} came where {len(transfer.data)} was due"
    if not piece.data or len(transfer.data) + len(piece.data) > piece.total:
        return "a piece is empty or runs over the end"
    return None
