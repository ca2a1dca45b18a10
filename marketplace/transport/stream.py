"""The frames of one attempt, between the connection that receives them and the job that waits for them."""

import asyncio
from collections import deque
from collections.abc import Callable

from marketplace.domain.ports.link import NodeLost
from tallystick.protocol.frames import AnyFrame, Cancel, Failed, Finished, Tokens

AttemptFrame = Tokens | Finished | Failed
AttemptKey = tuple[bytes, int]
"""Job id and attempt."""

SPARE_FRAMES = 8
"""Frames beyond one per token: a last text, the end."""


class AttemptStream:
    """One reader, one writer, both on the event loop.

    What it buffers is bounded by what the job may produce: a node that sends more is misbehaving and
    the stream breaks.
    """

    __slots__ = ("_broken", "_buffer", "_ended", "_forget", "_key", "_room", "_send", "_waiter")

    def __init__(
        self,
        key: AttemptKey,
        *,
        room: int,
        send: Callable[[AnyFrame], None],
        forget: Callable[[AttemptKey], None],
    ) -> None:
        """Take how many frames the attempt may have, and how to reach its node and to let go of it."""
        self._key = key
        self._room = room + SPARE_FRAMES
        self._send = send
        self._forget = forget
        self._buffer: deque[AttemptFrame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._broken: str | None = None
        self._ended = False

    def push(self, frame: AttemptFrame) -> None:
        """Hand a frame to the reader."""
        if self._broken is not None or self._ended:
            return
        if self._room == 0:
            self.interrupt("the node sent more frames than the job can have tokens")
            return
        self._room -= 1
        self._buffer.append(frame)
        self._wake()

    def interrupt(self, reason: str) -> None:
        """Make the iteration raise NodeLost after the frames that are here already."""
        if self._broken is None:
            self._broken = reason
            self._wake()

    async def cancel(self) -> None:
        """Ask the node to stop; the stream still ends with Finished, Failed or NodeLost."""
        self._send(Cancel(job_id=self._key[0], attempt=self._key[1]))

    def close(self) -> None:
        """Forget the attempt; frames that still come are dropped."""
        self._forget(self._key)
        self._buffer.clear()
        self.interrupt("the attempt was closed")

    def __aiter__(self) -> "AttemptStream":
        return self

    async def __anext__(self) -> AttemptFrame:
        while not self._buffer:
            if self._ended:
                raise StopAsyncIteration
            if self._broken is not None:
                raise NodeLost(self._broken)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frame = self._buffer.popleft()
        if not isinstance(frame, Tokens):
            self._ended = True
            self._buffer.clear()
        return frame

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
