"""What a node's frames do, however they came."""

import asyncio

from marketplace.domain.ports.link import NodeWatcher
from marketplace.transport.handshake import check_offers
from marketplace.transport.roster import Roster
from marketplace.transport.session import Session, key_of
from tallystick.protocol.frames import (
    AnyFrame,
    BadFrame,
    Blob,
    Draining,
    Failed,
    Finished,
    Heartbeat,
    Offers,
    Tokens,
)

MAX_LATE = 1024
"""Receipts of ended attempts that wait for an answer; a node resends the others when it reconnects."""


class Intake:
    """Hands the frames of one session to whoever waits for them."""

    def __init__(self, roster: Roster, session: Session, watcher: NodeWatcher) -> None:
        self._roster = roster
        self._session = session
        self._watcher = watcher
        self._late: asyncio.Queue[Finished] = asyncio.Queue(MAX_LATE)
        self._clerk: asyncio.Task[None] | None = None

    def handle(self, frame: AnyFrame) -> None:
        """Act on `frame`. Raises BadFrame for one that no node sends, Rejected for too large offers."""
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

    def close(self) -> None:
        """Stop answering late receipts."""
        if self._clerk is not None:
            self._clerk.cancel()

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
