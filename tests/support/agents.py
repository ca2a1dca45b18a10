"""Agents for tests: the real one with the echo engine, and a coordinator that says what a script wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from marketplace.domain.ports.stake import NodeStake
from provider.agent import Agent
from provider.config import ModelConfig, ProviderConfig
from provider.engines.base import Engine
from provider.engines.echo import EchoEngine
from provider.evidence import Evidence
from provider.serving import ServedModel
from tallystick.protocol.commitments import hello_digest
from tallystick.protocol.eip712 import acknowledgement_digest, taken_digest
from tallystick.protocol.frames import (
    Acknowledged,
    AnyFrame,
    Challenge,
    Goodbye,
    Heartbeat,
    Hello,
    Job,
    ReceiptTaken,
    Welcome,
    decode_frames,
    encode_frames,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey, recover
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tests.support.hubs import COORDINATOR, IDENTITY, eventually, served
from tests.support.markets import Stand
from tests.support.nodes import DOMAIN, LEDGER, STAKE, key_of, operator_of

TOKEN = Address("0x" + "70" * 20)


def a_config(
    url: str = "ws://127.0.0.1:1/v1/nodes/connect", number: int = 1, **changes: Any
) -> ProviderConfig:
    """Return the configuration of node `number` for the coordinator whose websocket is at `url`."""
    fields: dict[str, Any] = {
        "coordinator": url.replace("ws://", "http://").removesuffix("/nodes/connect"),
        "chain_id": DOMAIN.chain_id,
        "ledger": LEDGER,
        "stake": STAKE,
        "token": TOKEN,
        "operator": operator_of(number),
        "node": key_of(number).address,
        "drain_seconds": 5,
        "models": [ModelConfig(engine="echo", model="echo")],
    }
    return ProviderConfig(**(fields | changes))


def an_agent(
    config: ProviderConfig,
    home: Path,
    number: int = 1,
    engine: Engine | None = None,
    settles: Callable[[], Address | None] = lambda: None,
) -> Agent:
    """Return an agent that has not started; its evidence is open and is closed by `running`."""
    model = ServedModel(engine or EchoEngine(), config.models[0])
    evidence = Evidence(home / "evidence.sqlite")
    return Agent(config, key_of(number), [model], evidence, software="test", hardware="test", settles=settles)


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator["asyncio.Task[None]"]:
    """Run the agent; at the end it is cancelled, like a process that is killed, and its evidence closed."""
    task = asyncio.create_task(agent.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        agent.evidence.close()


@contextlib.asynccontextmanager
async def joined(
    stand: Stand, home: Path, number: int = 1, *, engine: Engine | None = None, **changes: Any
) -> AsyncIterator[tuple[Agent, "asyncio.Task[None]"]]:
    """Run an agent that is staked and connected, and wait until its models can be asked for."""
    config = a_config(stand.url, number, **changes)
    stake_behind(stand, config)
    agent = an_agent(config, home, number, engine)
    async with running(agent) as task:
        await eventually(lambda: any(node.address == config.node for node in stand.hub.nodes()))
        await eventually(lambda: all(stand.catalog.by_id(model) for model in agent.models))
        yield agent, task


def stake_behind(stand: Stand, config: ProviderConfig) -> None:
    """Register the configured node with the market's list of stakes."""
    stand.stakes.stakes[config.node] = NodeStake(config.operator, True, NanoUsd(10**12), True)


def echo_of(agent: Agent, text: str = "hello", **changes: Any) -> dict[str, Any]:
    """Return the fields of a request for an echo of `text` from the agent's model."""
    (model,) = agent.models.values()
    fields: dict[str, Any] = {
        "model_id": model.id,
        "model_name": model.name,
        "prompt_ids": tuple(text.encode()),
        "prompt_text": text,
        "parameters": Parameters(max_tokens=64),
    }
    return fields | changes


def a_job(agent: Agent, number: int = 1, **changes: Any) -> Job:
    """Return a job frame for the agent's model: an echo of `hello` at the default price."""
    (model,) = agent.models
    fields: dict[str, Any] = {
        "job_id": number.to_bytes(32, "big"),
        "attempt": 0,
        "model_id": model,
        "account": operator_of(77),
        "prompt_ids": tuple(b"hello"),
        "prompt_text": "hello",
        "salt": b"\x05" * 32,
        "parameters": Parameters(max_tokens=64),
        "job_seed": b"\x06" * 32,
        "input_price": 300,
        "output_price": 300,
        "fee_bps": 500,
    }
    return Job(**(fields | changes))


@dataclass
class Line:
    """One connection of a node to the scripted coordinator, after the handshake."""

    socket: WebSocket
    hello: Hello
    received: list[AnyFrame] = field(default_factory=list)

    async def send(self, *frames: AnyFrame) -> None:
        """Send one message."""
        await self.socket.send_bytes(encode_frames(frames))

    async def next(self, kind: type[AnyFrame]) -> Any:
        """Return the next frame of a kind; heartbeats and others are passed over."""
        async with asyncio.timeout(5):
            while True:
                while self.received:
                    frame = self.received.pop(0)
                    if isinstance(frame, kind):
                        return frame
                self.received += decode_frames(await self.socket.receive_bytes())


Script = Callable[[Line], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted_coordinator(
    *scripts: Script, challenge: Challenge | None = None, welcome: AnyFrame | None = None
) -> AsyncIterator[str]:
    """Serve connections, each by the next script (the last one again and again); yields the socket's URL."""
    turns = list(scripts)

    async def serve(socket: WebSocket) -> None:
        await socket.accept()
        asked = challenge or IDENTITY.challenge()
        await socket.send_bytes(encode_frames([asked]))
        try:
            (hello,) = decode_frames(await socket.receive_bytes())
            if isinstance(hello, Goodbye):
                return
            assert isinstance(hello, Hello)
            assert recover(hello_digest(asked), hello.signature) == hello.node
            await socket.send_bytes(encode_frames([welcome or a_welcome()]))
            script = turns.pop(0) if len(turns) > 1 else turns[0]
            await script(Line(socket, hello))
            await socket.close()
        except WebSocketDisconnect:
            return

    async with served(serve) as url:
        yield url


def a_welcome() -> Welcome:
    """Return what lets a node in."""
    return Welcome(session=b"s", heartbeat_ms=100, block_number=100, epoch=3)


def a_taken(receipt_id: bytes, epoch: int = 5, key: SigningKey = COORDINATOR) -> ReceiptTaken:
    """Return the coordinator's word that it has a receipt, or a forger's."""
    signature = key.sign_digest(taken_digest(DOMAIN, receipt_id, epoch))  # type: ignore[arg-type]
    return ReceiptTaken(receipt_id=receipt_id, epoch=epoch, signature=signature)


def a_cheque(account: Address, earned: int, epoch: int = 5, key: SigningKey = COORDINATOR) -> Acknowledged:
    """Return the coordinator's cheque, or a forger's."""
    signature = key.sign_digest(acknowledgement_digest(DOMAIN, account, epoch, NanoUsd(earned)))
    return Acknowledged(account=account, epoch=epoch, earned=earned, signature=signature)


async def idle(line: Line) -> None:
    """Keep the connection up and say nothing but heartbeats."""
    while True:
        await line.send(Heartbeat(at_ms=0))
        await asyncio.sleep(0.1)
