"""The nodes that are connected by websocket.

    accept ──▶ Challenge ──▶ Hello, checked ──▶ Welcome ──▶ frames both ways ──▶ gone
                                  │                            │ silent, garbage, replaced
                                  └──────────▶ Goodbye ◀───────┘

One connection per node: a newer one replaces the older. A silent node is dropped; its jobs go on elsewhere.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from msgspec import UNSET
from starlette.websockets import WebSocket, WebSocketDisconnect

from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.history import History
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import NodeWatcher
from marketplace.domain.ports.stake import StakeBook
from marketplace.transport.caps import Bucket
from marketplace.transport.handshake import (
    Rejected,
    check_hello,
    check_stake,
    new_challenge,
    notice_for,
    other_version,
)
from marketplace.transport.intake import Intake
from marketplace.transport.outbox import Outbox, SlowReader
from marketplace.transport.reader import Reader, receive_bytes
from marketplace.transport.roster import Roster
from marketplace.transport.session import Session
from tallystick.protocol.frames import (
    PROTOCOL_VERSION,
    BadFrame,
    Challenge,
    Goodbye,
    Heartbeat,
    Hello,
    Welcome,
    decode_frames,
    version_named,
)
from tallystick.protocol.ids import Address

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HubRules:
    """Times in seconds, rates per second and node."""

    heartbeat_ms: int = 1000
    node_timeout: float = 3.0
    hello_timeout: float = 10.0
    stake_refresh: float = 30.0
    messages_rate: float = 5_000
    messages_burst: float = 20_000
    bytes_rate: float = 16 * 1024 * 1024
    bytes_burst: float = 64 * 1024 * 1024
    offers_rate: float = 5
    offers_burst: float = 20
    max_nodes: int = 2_000
    max_handshakes: int = 500
    """Connections that have not said who they are."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose coordinator this is; every challenge says so."""

    coordinator: Address
    chain_id: int
    ledger: Address
    stake: Address
    fee_bps: int
    software: str

    def challenge(self) -> Challenge:
        """Return a fresh challenge."""
        return new_challenge(
            coordinator=self.coordinator,
            chain_id=self.chain_id,
            ledger=self.ledger,
            stake=self.stake,
            fee_bps=self.fee_bps,
            software=self.software,
        )


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The chain's height and the epoch that runs, for the nodes' receipts."""

    block_number: int
    epoch: int


@dataclass(slots=True)
class _Connection:
    """A session, its wire, when it last said something, and why it must end."""

    session: Session
    outbox: Outbox
    reader: Reader
    dismissed: asyncio.Future[Goodbye]


class WebSocketHub(Roster):
    """Serves the nodes' connections and is the ProviderLink to them."""

    def __init__(
        self,
        identity: Identity,
        *,
        stakes: StakeBook,
        watcher: NodeWatcher,
        history: History,
        clock: Clock,
        head: Callable[[], ChainHead],
        rules: HubRules | None = None,
    ) -> None:
        super().__init__(history)
        self._identity = identity
        self._stakes = stakes
        self._watcher = watcher
        self._clock = clock
        self._head = head
        self._rules = rules or HubRules()
        self._connections: dict[Session, _Connection] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._shaking_hands = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to send heartbeats, to watch for silent nodes and to refresh stakes."""
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._refresh_stakes())]

    async def close(self) -> None:
        """Tell every node goodbye and wait until the connections have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections.values()):
            _dismiss(connection, Goodbye(code="closing", message="The coordinator is stopping.", retry=True))
        if self._serving:
            await asyncio.wait(self._serving, timeout=self._rules.node_timeout)

    async def serve(self, websocket: WebSocket) -> None:
        """Run one node's connection from accept to end. The route for nodes calls this."""
        conversation = asyncio.create_task(self._serve(websocket))
        self._serving.add(conversation)
        conversation.add_done_callback(self._serving.discard)
        try:
            await conversation
        finally:
            conversation.cancel()

    async def _serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        is_full = len(self._connections) >= self._rules.max_nodes
        if is_full or self._shaking_hands >= self._rules.max_handshakes:
            await _close(websocket, Goodbye(code="full", message="Too many nodes are connected.", retry=True))
            return
        self._shaking_hands += 1
        try:
            connection, hello = await self._shake_hands(websocket)
        except Rejected as rejected:
            log.info("node_rejected", code=rejected.goodbye.code, reason=rejected.goodbye.message)
            await _close(websocket, rejected.goodbye)
            return
        except WebSocketDisconnect:
            return
        finally:
            self._shaking_hands -= 1
        await self._converse(websocket, connection, hello)

    async def _shake_hands(self, websocket: WebSocket) -> tuple[_Connection, Hello]:
        challenge = self._identity.challenge()
        outbox = Outbox(websocket)
        outbox.send(challenge)
        await outbox.flush()
        hello = await self._receive_hello(websocket)
        try:
            stake = await check_hello(hello, challenge, self._stakes)
        except ChainUnavailable as error:
            raise Rejected("chain", error.message, retry=True) from error
        session = Session(
            hello, stake, self.history.of(hello.node), outbox, connected_at_ms=self._clock.now_ms()
        )
        head, notice = self._head(), notice_for(hello)
        if notice:
            log.warning("node_is_older", node=hello.node, software=hello.software, notice=notice)
        outbox.send(
            Welcome(
                session=os.urandom(16),
                heartbeat_ms=self._rules.heartbeat_ms,
                block_number=head.block_number,
                epoch=head.epoch,
                notice=notice or UNSET,
            )
        )
        dismissed: asyncio.Future[Goodbye] = asyncio.get_running_loop().create_future()
        return _Connection(session, outbox, self._reader(session), dismissed), hello

    def _admit(self, connection: _Connection, hello: Hello) -> None:
        session = connection.session
        self._connections[session] = connection
        older = self.add(session)
        if older is not None:
            self._end(older, Goodbye(code="replaced", message="The node connected again.", retry=False))
        log.info("node_joined", node=session.address, operator=session.operator, models=len(hello.models))
        self._watcher.joined(session.view, hello)

    def _reader(self, session: Session) -> Reader:
        now = asyncio.get_running_loop().time()
        return Reader(
            Intake(self, session, self._watcher),
            messages=Bucket(self._rules.messages_rate, self._rules.messages_burst, now),
            volume=Bucket(self._rules.bytes_rate, self._rules.bytes_burst, now),
            offers=Bucket(self._rules.offers_rate, self._rules.offers_burst, now),
        )

    async def _receive_hello(self, websocket: WebSocket) -> Hello:
        message = b""
        try:
            async with asyncio.timeout(self._rules.hello_timeout):
                message = await receive_bytes(websocket)
            frames = decode_frames(message)
        except TimeoutError as error:
            raise Rejected("timeout", "No Hello came in time.", retry=True) from error
        except BadFrame as error:
            version = version_named(message)
            if version not in (None, PROTOCOL_VERSION):
                raise other_version(version) from error
            raise Rejected("garbage", str(error)[:200], retry=False) from error
        if len(frames) == 1 and isinstance(frames[0], Goodbye):
            raise Rejected(frames[0].code[:40], f"The node left: {frames[0].message[:300]}", retry=False)
        if len(frames) != 1 or not isinstance(frames[0], Hello):
            raise Rejected("garbage", "The first message is one Hello.", retry=False)
        return frames[0]

    async def _converse(self, websocket: WebSocket, connection: _Connection, hello: Hello) -> None:
        reading = asyncio.create_task(connection.reader.run(websocket))
        writing = asyncio.create_task(connection.outbox.run())
        goodbye: Goodbye | None = None
        try:
            self._admit(connection, hello)
            ends: set[asyncio.Future[Any]] = {reading, writing, connection.dismissed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            goodbye = _reason(reading, writing, connection.dismissed)
        finally:
            self._forget(connection, goodbye)
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            connection.reader.close()
        if goodbye is not None:
            await _close(websocket, goodbye)

    def _forget(self, connection: _Connection, goodbye: Goodbye | None) -> None:
        session = connection.session
        reason = goodbye.message if goodbye else "the node disconnected"
        session.lose(f"{session.address}: {reason}")
        self._connections.pop(session, None)
        if self.remove(session):
            log.info("node_left", node=session.address, reason=goodbye.code if goodbye else "disconnected")
            self._watcher.left(session.address)

    def _end(self, session: Session, goodbye: Goodbye) -> None:
        connection = self._connections.get(session)
        if connection is not None:
            session.lose(f"{session.address}: {goodbye.message}")
            _dismiss(connection, goodbye)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self._rules.heartbeat_ms / 1000
        last = loop.time()
        while True:
            await asyncio.sleep(pause)
            now = loop.time()
            # If this loop itself was late, the nodes' signs of life still wait to be read: judge nobody now.
            was_late = now - last > pause + self._rules.node_timeout / 2
            last = now
            head = self._head()
            beat = Heartbeat(at_ms=self._clock.now_ms(), block_number=head.block_number, epoch=head.epoch)
            for connection in list(self._connections.values()):
                if not was_late and now - connection.reader.heard_at > self._rules.node_timeout:
                    silence = f"The node was silent for {now - connection.reader.heard_at:.1f} s."
                    self._end(connection.session, Goodbye(code="silent", message=silence, retry=True))
                elif not was_late and connection.outbox.stuck_for > self._rules.node_timeout:
                    stuck = f"The node has taken nothing for {connection.outbox.stuck_for:.1f} s."
                    self._end(connection.session, Goodbye(code="slow", message=stuck, retry=True))
                else:
                    connection.outbox.send(beat)

    async def _refresh_stakes(self) -> None:
        while True:
            await asyncio.sleep(self._rules.stake_refresh)
            for session in self.sessions():
                try:
                    stake = await self._stakes.node_stake(session.address)
                    check_stake(session.address, session.operator, stake)
                except ChainUnavailable:
                    break
                except Rejected as rejected:
                    self._end(session, rejected.goodbye)
                else:
                    session.set_stake(stake)


def _reason(
    reading: asyncio.Task[Goodbye | None], writing: asyncio.Task[None], dismissed: asyncio.Future[Goodbye]
) -> Goodbye | None:
    """Return what to tell the node, None if it is gone already."""
    if dismissed.done():
        return dismissed.result()
    try:
        if reading.done():
            return reading.result()
        writing.result()
    except WebSocketDisconnect:
        return None
    except SlowReader as error:
        return Goodbye(code="slow", message=str(error), retry=True)
    return None


def _dismiss(connection: _Connection, goodbye: Goodbye) -> None:
    if not connection.dismissed.done():
        connection.dismissed.set_result(goodbye)


async def _close(websocket: WebSocket, goodbye: Goodbye) -> None:
    outbox = Outbox(websocket)
    outbox.send(goodbye)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(2):
            await outbox.flush()
            await websocket.close(1000 if goodbye.retry else 1008, goodbye.code)
