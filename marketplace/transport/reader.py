"""What comes from one node over its websocket: no faster than the caps let it, and decoded.

A node that sends more than it may is not listened to for a while. Its bytes then wait on its own side, where
an honest agent puts more into each message; a dishonest one holds up nobody but itself.
"""

import asyncio
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from marketplace.transport.caps import Bucket
from marketplace.transport.handshake import Rejected
from marketplace.transport.intake import Intake
from tallystick.protocol.frames import BadFrame, Goodbye, Offers, decode_frames

SHORTEST_PAUSE_SECONDS: Final = 0.01


class Reader:
    """Reads one node until it leaves or misbehaves."""

    def __init__(self, intake: Intake, *, messages: Bucket, volume: Bucket, offers: Bucket) -> None:
        self._intake = intake
        self._messages = messages
        self._volume = volume
        self._offers = offers
        self._now = asyncio.get_running_loop().time
        self.heard_at = self._now()

    async def run(self, websocket: WebSocket) -> Goodbye | None:
        """Return why the node must go. Raises WebSocketDisconnect when it goes by itself."""
        try:
            while True:
                message = await receive_bytes(websocket)
                now = self.heard_at = self._now()
                owed = max(self._messages.owed_after(1, now), self._volume.owed_after(len(message), now))
                frames = decode_frames(message)
                offers = [frame for frame in frames if isinstance(frame, Offers)]
                if offers:
                    owed = max(owed, self._offers.owed_after(1, now))
                for frame in frames:
                    # The last is what holds, and each costs as much as there are nodes and waiting jobs.
                    if not isinstance(frame, Offers) or frame is offers[-1]:
                        self._intake.handle(frame)
                if owed > SHORTEST_PAUSE_SECONDS:
                    await asyncio.sleep(owed)
        except BadFrame as error:
            return Goodbye(code="garbage", message=str(error)[:200], retry=False)
        except Rejected as rejected:
            return rejected.goodbye

    def close(self) -> None:
        """Stop what it started."""
        self._intake.close()


async def receive_bytes(websocket: WebSocket) -> bytes:
    """Return the next binary message. Raises WebSocketDisconnect at the end, BadFrame for a text message."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    data = message.get("bytes")
    if data is None:
        raise BadFrame("a text message; frames travel in binary ones")
    return bytes(data)
