"""The agent's side of the connection: it dials out, proves its key, and exchanges frames.

Frames that are sent in one turn of the event loop leave in one message.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from provider.trust import http_session
from tallystick.protocol.commitments import hello_digest
from tallystick.protocol.frames import (
    BLOB_CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    PROTOCOL_MINOR,
    PROTOCOL_VERSION,
    AnyFrame,
    BadFrame,
    Blob,
    Challenge,
    Goodbye,
    Hello,
    ModelOffer,
    Welcome,
    decode_frames,
    encode_frames,
    minor_of,
    version_named,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

HANDSHAKE_SECONDS: Final = 20.0
CLOSING_SECONDS: Final = 5.0
LEAST_SILENCE_SECONDS: Final = 5.0
SILENT_HEARTBEATS: Final = 10
"""A coordinator that has missed so many heartbeats is taken for gone."""
FRAMES_PER_MESSAGE: Final = 1000
"""Well under the protocol's limits on frames and bytes, whatever the frames are."""
PATH: Final = "/nodes/connect"


class LinkLost(Exception):
    """The connection is gone, or could not be made; trying again later may help."""


class LinkRefused(Exception):
    """The coordinator will not have this node, or is another than it should be; trying again is no use."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who dials, and which market it expects to find there."""

    key: SigningKey
    operator: Address
    chain_id: int
    ledger: Address
    stake: Address
    max_fee_bps: int
    software: str
    region: str
    hardware: str
    engine: str


class LinkSession:
    """A connection whose handshake is done; `close` it when it is over."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        socket: aiohttp.ClientWebSocketResponse,
        challenge: Challenge,
        welcome: Welcome,
        rest: Sequence[AnyFrame],
    ) -> None:
        self.challenge = challenge
        self.welcome = welcome
        self._http = http
        self._socket = socket
        self._early = list(rest)
        self._outgoing: deque[AnyFrame] = deque()
        self._wake = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._sender = asyncio.create_task(self._send_all(), name="link-sender")

    def send(self, *frames: AnyFrame) -> None:
        """Put frames on their way; they keep their order. After the connection's end they go nowhere."""
        self._outgoing.extend(frames)
        self._all_sent.clear()
        self._wake.set()

    async def frames(self) -> AsyncGenerator[AnyFrame, None]:
        """Give the frames that come until the connection ends.

        Raises LinkLost at its end, LinkRefused after a Goodbye that says not to come back.
        """
        for frame in self._early:
            yield frame
        silence = max(LEAST_SILENCE_SECONDS, SILENT_HEARTBEATS * self.welcome.heartbeat_ms / 1000)
        while True:
            try:
                async with asyncio.timeout(silence):
                    received = await _receive(self._socket)
            except TimeoutError as error:
                raise LinkLost(f"the coordinator has been silent for {silence:.0f} s") from error
            for frame in received:
                yield frame

    async def flush(self) -> None:
        """Return when everything that was sent so far has left, or the connection is gone."""
        waiting = asyncio.create_task(self._all_sent.wait())
        if self._outgoing:
            await asyncio.wait((waiting, self._sender), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def close(self) -> None:
        """Send what waits, if that goes quickly, and close."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), CLOSING_SECONDS)
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        await _shut(self._http, self._socket)

    async def _send_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing:
                message = encode_frames(_batch(self._outgoing))
                try:
                    await self._socket.send_bytes(message)
                except (ConnectionError, aiohttp.ClientError):
                    # The receiving side sees the same end and reports it; nothing more can leave here.
                    await self._socket.close()
                    return
            self._all_sent.set()


def _batch(outgoing: deque[AnyFrame]) -> list[AnyFrame]:
    """Take from the queue what fits into one message: a large file's pieces leave in several."""
    batch: list[AnyFrame] = []
    blob_bytes = 0
    while outgoing and len(batch) < FRAMES_PER_MESSAGE and blob_bytes < BLOB_CHUNK_BYTES:
        frame = outgoing.popleft()
        blob_bytes += len(frame.data) if isinstance(frame, Blob) else 0
        batch.append(frame)
    return batch


async def dial(
    url: str, identity: Identity, models: Sequence[ModelOffer], *, ca_file: str = ""
) -> LinkSession:
    """Connect to the coordinator whose API is at `url` and return the session.

    `ca_file` has certificates to trust besides the system's. Raises LinkLost if it cannot be reached or goes,
    LinkRefused if the two do not fit.
    """
    http = http_session(ca_file)
    socket = None
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            socket = await http.ws_connect(
                _websocket_url(url), max_msg_size=MAX_MESSAGE_BYTES, heartbeat=20.0, autoping=True, compress=0
            )
            challenge, welcome, rest = await _shake_hands(socket, identity, models)
        return LinkSession(http, socket, challenge, welcome, rest)
    except TimeoutError as error:
        await _shut(http, socket)
        raise LinkLost(f"{url} did not finish the handshake in {HANDSHAKE_SECONDS:.0f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        await _shut(http, socket)
        raise LinkLost(f"{url} cannot be reached: {error}") from error
    except BaseException:
        # Whatever ends the attempt, also a cancellation, leaves no connection open.
        await _shut(http, socket)
        raise


async def _shut(http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse | None) -> None:
    try:
        if socket is not None:
            await socket.close()
    finally:
        await http.close()


async def _shake_hands(
    socket: aiohttp.ClientWebSocketResponse, identity: Identity, models: Sequence[ModelOffer]
) -> tuple[Challenge, Welcome, list[AnyFrame]]:
    first, *_ = await _receive(socket)
    if not isinstance(first, Challenge):
        raise LinkRefused(f"the coordinator began with {type(first).__name__}, not with a challenge")
    try:
        _check_market(first, identity)
    except LinkRefused as refused:
        # The coordinator's operator should read it, too.
        await socket.send_bytes(encode_frames([_goodbye(first, refused)]))
        raise
    await socket.send_bytes(encode_frames([_hello(first, identity, models)]))
    answer, *rest = await _receive(socket)
    if not isinstance(answer, Welcome):
        raise LinkRefused(f"the coordinator answered the handshake with {type(answer).__name__}")
    return first, answer, rest


def _check_market(challenge: Challenge, identity: Identity) -> None:
    if challenge.version != PROTOCOL_VERSION:
        raise _other_version(challenge.version, challenge.software)
    market = (challenge.chain_id, challenge.ledger, challenge.stake)
    expected = (identity.chain_id, identity.ledger, identity.stake)
    if market != expected:
        raise LinkRefused(f"the coordinator is on {market}, this agent is configured for {expected}")
    if challenge.fee_bps > identity.max_fee_bps:
        raise LinkRefused(
            f"the market's share is {challenge.fee_bps} basis points; this agent works for at most "
            f"{identity.max_fee_bps} (max_fee_bps in its configuration)"
        )


def _other_version(theirs: int, software: str) -> LinkRefused:
    older = "coordinator" if theirs < PROTOCOL_VERSION else "agent"
    return LinkRefused(
        f"the coordinator speaks protocol {theirs} (software {software}), this agent {PROTOCOL_VERSION}; "
        f"upgrade the {older}"
    )


def _goodbye(challenge: Challenge, refused: LinkRefused) -> Goodbye:
    code = "version" if challenge.version != PROTOCOL_VERSION else "market"
    return Goodbye(code=code, message=str(refused), retry=False)


def _hello(challenge: Challenge, identity: Identity, models: Sequence[ModelOffer]) -> Hello:
    return Hello(
        version=PROTOCOL_VERSION,
        software=identity.software,
        node=identity.key.address,
        operator=identity.operator,
        signature=identity.key.sign_digest(hello_digest(challenge)),
        models=tuple(models),
        region=identity.region,
        hardware=identity.hardware,
        engine=identity.engine,
        minor=PROTOCOL_MINOR,
    )


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> list[AnyFrame]:
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise LinkLost(f"the connection ended ({message.type.name.lower()}, code {socket.close_code})")
    try:
        frames = decode_frames(message.data)
    except BadFrame as error:
        version = version_named(message.data)
        if version is not None and version != PROTOCOL_VERSION:
            raise _other_version(version, "unknown") from error
        raise LinkLost(f"the coordinator sent something that is not a frame: {error}") from error
    for frame in frames:
        if isinstance(frame, Goodbye):
            raise (LinkLost if frame.retry else LinkRefused)(f"{frame.message} ({frame.code})")
    if not frames:
        raise LinkLost("the coordinator sent an empty message")
    return frames


def notices(session: LinkSession) -> list[str]:
    """Return what the agent's owner should read about a new connection."""
    told = []
    theirs = minor_of(session.challenge)
    if theirs < PROTOCOL_MINOR:
        told.append(
            f"the coordinator speaks protocol {PROTOCOL_VERSION}.{theirs} (software "
            f"{session.challenge.software}), this agent {PROTOCOL_VERSION}.{PROTOCOL_MINOR}: it works, "
            "without what is new"
        )
    if session.welcome.notice:
        told.append(session.welcome.notice)
    return told


def _websocket_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}{PATH}"
