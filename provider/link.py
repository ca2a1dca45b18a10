"""The agent's side of the connection: it dials out, proves its key, and exchanges frames.

Frames that are sent in one turn of the event loop leave in one message.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp

from tallystick.protocol.commitments import hello_digest
from tallystick.protocol.frames import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    AnyFrame,
    BadFrame,
    Challenge,
    Goodbye,
    Hello,
    ModelOffer,
    Welcome,
    decode_frames,
    encode_frames,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

HANDSHAKE_SECONDS: Final = 20.0
PATH: Final = "/nodes/connect"


class LinkLost(Exception):
    """The connection is gone, or could not be made; trying again later may help."""


class LinkRefused(Exception):
    """The coordinator will not have this node, or is not the one that it should be; trying again does not help."""


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
    """A connection whose handshake is done."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        challenge: Challenge,
        welcome: Welcome,
        rest: Sequence[AnyFrame],
    ) -> None:
        self.challenge = challenge
        self.welcome = welcome
        self._socket = socket
        self._early = list(rest)
        self._outgoing: list[AnyFrame] = []
        self._wake = asyncio.Event()
        self._sender = asyncio.create_task(self._send_all(), name="link-sender")

    def send(self, *frames: AnyFrame) -> None:
        """Put frames on their way; they keep their order."""
        self._outgoing.extend(frames)
        self._wake.set()

    async def frames(self) -> AsyncIterator[AnyFrame]:
        """Give the frames that come until the connection ends.

        Raises LinkLost at its end, LinkRefused after a Goodbye that says not to come back.
        """
        for frame in self._early:
            yield frame
        while True:
            for frame in await _receive(self._socket):
                yield frame

    async def flush(self) -> None:
        """Return when everything that was sent so far has left, or the connection is gone."""
        while self._outgoing and not self._sender.done():
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Send what waits and close."""
        await self.flush()
        self._sender.cancel()
        await self._socket.close()

    async def _send_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._outgoing = self._outgoing, []
            if not batch:
                continue
            try:
                await self._socket.send_bytes(encode_frames(batch))
            except (ConnectionError, aiohttp.ClientError):
                # The receiving side sees the same end and reports it; nothing more can leave here.
                await self._socket.close()
                return


@asynccontextmanager
async def dial(url: str, identity: Identity, models: Sequence[ModelOffer]) -> AsyncIterator[LinkSession]:
    """Connect to the coordinator whose API is at `url` and give the session.

    Raises LinkLost if it cannot be reached or goes, LinkRefused if the two do not fit.
    """
    async with aiohttp.ClientSession() as http:
        try:
            socket = await http.ws_connect(
                _websocket_url(url), max_msg_size=MAX_MESSAGE_BYTES, heartbeat=20.0, autoping=True, compress=0
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkLost(f"{url} cannot be reached: {error}") from error
        try:
            challenge, welcome, rest = await asyncio.wait_for(
                _shake_hands(socket, identity, models), HANDSHAKE_SECONDS
            )
        except TimeoutError as error:
            await socket.close()
            raise LinkLost(f"{url} did not finish the handshake in {HANDSHAKE_SECONDS:.0f} s") from error
        session = LinkSession(socket, challenge, welcome, rest)
        try:
            yield session
        finally:
            await session.close()


async def _shake_hands(
    socket: aiohttp.ClientWebSocketResponse, identity: Identity, models: Sequence[ModelOffer]
) -> tuple[Challenge, Welcome, list[AnyFrame]]:
    first, *_ = await _receive(socket)
    if not isinstance(first, Challenge):
        raise LinkRefused(f"the coordinator began with {type(first).__name__}, not with a challenge")
    _check_market(first, identity)
    await socket.send_bytes(encode_frames([_hello(first, identity, models)]))
    answer, *rest = await _receive(socket)
    if not isinstance(answer, Welcome):
        raise LinkRefused(f"the coordinator answered the handshake with {type(answer).__name__}")
    return first, answer, rest


def _check_market(challenge: Challenge, identity: Identity) -> None:
    if challenge.version != PROTOCOL_VERSION:
        raise LinkRefused(
            f"the coordinator speaks protocol {challenge.version} (software {challenge.software}), this agent "
            f"{PROTOCOL_VERSION}; upgrade the older one"
        )
    market = (challenge.chain_id, challenge.ledger, challenge.stake)
    expected = (identity.chain_id, identity.ledger, identity.stake)
    if market != expected:
        raise LinkRefused(f"the coordinator is on {market}, this agent is configured for {expected}")
    if challenge.fee_bps > identity.max_fee_bps:
        raise LinkRefused(
            f"the market's share is {challenge.fee_bps} basis points; this agent works for at most "
            f"{identity.max_fee_bps} (max_fee_bps in its configuration)"
        )


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
    )


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> list[AnyFrame]:
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise LinkLost(f"the connection ended ({message.type.name.lower()}, code {socket.close_code})")
    try:
        frames = decode_frames(message.data)
    except BadFrame as error:
        raise LinkLost(f"the coordinator sent something that is not a frame: {error}") from error
    for frame in frames:
        if isinstance(frame, Goodbye):
            raise (LinkLost if frame.retry else LinkRefused)(f"{frame.message} ({frame.code})")
    if not frames:
        raise LinkLost("the coordinator sent an empty message")
    return frames


def _websocket_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}{PATH}"
