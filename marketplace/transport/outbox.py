"""What waits to be sent to one node: frames of one turn of the event loop share a message."""

import asyncio
from collections.abc import Sequence

from starlette.websockets import WebSocket, WebSocketDisconnect

from tallystick.protocol.frames import MAX_MESSAGE_BYTES, AnyFrame, encode_frames

MAX_WAITING = 4096
"""Frames; a node that lets more pile up does not read."""
BATCH = 256


class SlowReader(Exception):
    """The node does not read what it is sent."""


class Outbox:
    """Queues frames without blocking; `run` sends them."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._waiting: list[AnyFrame] = []
        self._wake = asyncio.Event()
        self._overflow = False
        self._sending_since: float | None = None
        self._now = asyncio.get_running_loop().time

    @property
    def stuck_for(self) -> float:
        """For how many seconds the node has not taken the message that is being sent; 0 if none is."""
        return 0.0 if self._sending_since is None else self._now() - self._sending_since

    def send(self, frame: AnyFrame) -> None:
        """Queue `frame`; never blocks."""
        if len(self._waiting) >= MAX_WAITING:
            self._overflow = True
        else:
            self._waiting.append(frame)
        self._wake.set()

    async def run(self) -> None:
        """Send until the connection ends. Raises SlowReader, or WebSocketDisconnect when the node is gone."""
        while True:
            await self._wake.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits now. Raises as `run` does."""
        self._wake.clear()
        while self._waiting:
            if self._overflow:
                raise SlowReader(f"{MAX_WAITING} frames wait for the node to read")
            batch = self._waiting[:BATCH]
            del self._waiting[:BATCH]
            for message in messages_of(batch):
                self._sending_since = self._now()
                try:
                    await self._websocket.send_bytes(message)
                except RuntimeError as error:  # starlette's word for a socket that was closed meanwhile
                    raise WebSocketDisconnect(1006, str(error)) from error
                finally:
                    self._sending_since = None


def messages_of(frames: Sequence[AnyFrame]) -> list[bytes]:
    """Return as few messages as carry `frames` within the size limit.

    A frame that alone exceeds it is left out.
    """
    message = encode_frames(frames)
    if len(message) <= MAX_MESSAGE_BYTES:
        return [message]
    if len(frames) == 1:
        return []
    half = len(frames) // 2
    return messages_of(frames[:half]) + messages_of(frames[half:])
