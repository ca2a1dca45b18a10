"""What comes from one node: within the caps, decoded, and handed to whoever waits for it."""

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect

from marketplace.domain.ports.link import NodeWatcher
from marketplace.transport.caps import Bucket
from marketplace.transport.handshake import Rejected, check_offers
from marketplace.transport.roster import Roster
from marketplace.transport.session import Session, key_of
from tallystick.protocol.frames import (
    AnyFrame,
    BadFrame,
    Blob,
    Draining,
    Failed,
    Finished,
    Goodbye,
    Heartbeat,
    Offers,
    Tokens,
    decode_frames,
)

MAX_LATE = 1024
"""Receipts of ended attempts that wait for an answer; a node resends the others when it reconnects."""


class Reader:
    """Reads one node until it leaves or misbehaves."""

    def __init__(
        self, roster: Roster, session: Session, watcher: NodeWatcher, *, messages: Bucket, volume: Bucket
    ) -> None:
        self._roster = roster
        self._session = session
        self._watcher = watcher
        self._messages = messages
        self._volume = volume
        self._late: asyncio.Queue[Finished] = asyncio.Queue(MAX_LATE)
        self._clerk: asyncio.Task[None] | None = None
        self._now = asyncio.get_running_loop().time
        self.heard_at = self._now()

    async def run(self, websocket: WebSocket) -> Goodbye | None:
        """Return why the node must go. Raises WebSocketDisconnect when it goes by itself."""
        try:
            while True:
                message = await receive_bytes(websocket)
                now = self.heard_at = self._now()
                if not self._messages.take(1, now) or not self._volume.take(len(message), now):
                    return Goodbye(code="flood", message="The node sends more than it may.", retry=True)
                for frame in decode_frames(message):
                    self._handle(frame)
        except BadFrame as error:
            return Goodbye(code="garbage", message=str(error)[:200], retry=False)
        except Rejected as rejected:
            return rejected.goodbye

    def close(self) -> None:
        """Stop answering late receipts."""
        if self._clerk is not None:
            self._clerk.cancel()

    def _handle(self, frame: AnyFrame) -> None:
        match frame:
            case Tokens() | Failed():
                self._session.push(key_of(frame), frame)
            case Finished():
                if not self._session.push(key_of(frame), frame):
                    self._file_late(frame)
            case Heartbeat():
                pass
            case Offers():
                check_offers(frame.models)
                self._roster.set_offers(self._session, frame.models)
                self._watcher.offered(self._session.address, frame.models)
            case Draining():
                self._session.set_draining()
            case Blob():
                self._session.receive_blob(frame)
            case _:
                raise BadFrame(f"a node does not send {type(frame).__name__}")

    def _file_late(self, finished: Finished) -> None:
        if self._clerk is None:
            self._clerk = asyncio.create_task(self._answer_late())
        if not self._late.full():
            self._late.put_nowait(finished)

    async def _answer_late(self) -> None:
        while True:
            finished = await self._late.get()
            answer = await self._watcher.late_receipt(self._session.address, finished)
            if answer is not None:
                self._session.send(answer)


async def receive_bytes(websocket: WebSocket) -> bytes:
    """Return the next binary message. Raises WebSocketDisconnect at the end, BadFrame for a text message."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    data = message.get("bytes")
    if data is None:
        raise BadFrame("a text message; frames travel in binary ones")
    return bytes(data)
