"""Nodes in the same process: the twin of the websocket hub, for tests and for one process that is both."""

import asyncio
from collections.abc import Callable, Sequence

from marketplace.domain.history import History
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import NodeWatcher
from marketplace.domain.ports.stake import NodeStake
from marketplace.transport.intake import Intake
from marketplace.transport.roster import Roster
from marketplace.transport.session import Session
from tallystick.protocol.frames import AnyFrame, Hello, decode_frames, encode_frames

Receive = Callable[[AnyFrame], None]
"""What a node does with a frame; called on the event loop, never inside of a call to the hub."""


class MemoryHub(Roster):
    """A ProviderLink without a network. Frames are encoded and decoded all the same: types stay honest."""

    def __init__(self, *, watcher: NodeWatcher, history: History, clock: Clock) -> None:
        super().__init__(history)
        self._watcher = watcher
        self._clock = clock
        self._connections: dict[Session, MemoryConnection] = {}

    def connect(self, hello: Hello, stake: NodeStake, receive: Receive) -> "MemoryConnection":
        """Take a node in, replacing its older connection; `hello` is not checked."""
        outlet = _Pipe(receive)
        session = Session(
            hello, stake, self.history.of(hello.node), outlet, connected_at_ms=self._clock.now_ms()
        )
        connection = MemoryConnection(self, session, outlet, Intake(self, session, self._watcher))
        older = self.add(session)
        self._connections[session] = connection
        if older is not None:
            self._connections[older].leave("the node connected again")
        self._watcher.joined(session.view, hello)
        return connection

    def forget(self, session: Session) -> None:
        """Drop a session that has ended."""
        self._connections.pop(session, None)
        if self.remove(session):
            self._watcher.left(session.address)


class MemoryConnection:
    """The node's end."""

    def __init__(self, hub: MemoryHub, session: Session, pipe: "_Pipe", intake: Intake) -> None:
        self._hub = hub
        self._session = session
        self._pipe = pipe
        self._intake = intake

    async def send(self, frames: Sequence[AnyFrame]) -> None:
        """Send frames to the hub. Raises ConnectionError after the end."""
        if self._pipe.is_closed:
            raise ConnectionError("the connection has ended")
        for frame in decode_frames(encode_frames(frames)):
            self._intake.handle(frame)
        await asyncio.sleep(0)

    def leave(self, reason: str = "the node disconnected") -> None:
        """End the connection, as if the cable were cut."""
        if self._pipe.is_closed:
            return
        self._pipe.is_closed = True
        self._intake.close()
        self._session.lose(f"{self._session.address}: {reason}")
        self._hub.forget(self._session)


class _Pipe:
    """The way from the hub to the node."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_closed = False

    def send(self, frame: AnyFrame) -> None:
        (copy,) = decode_frames(encode_frames([frame]))
        asyncio.get_running_loop().call_soon(self._hand_over, copy)

    def _hand_over(self, frame: AnyFrame) -> None:
        if not self.is_closed:
            self._receive(frame)
