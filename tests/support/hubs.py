"""A hub on a real socket, and what it needs around it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from marketplace.domain.history import History
from marketplace.domain.ports.clock import SystemClock
from marketplace.domain.ports.link import NodeView, NodeWatcher
from marketplace.domain.ports.stake import NodeStake
from marketplace.transport.hub import ChainHead, HubRules, Identity, WebSocketHub
from tallystick.protocol.frames import Finished, Hello, ModelOffer, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import ZERO_ADDRESS, Address
from tallystick.protocol.money import NanoUsd
from tests.support.nodes import LEDGER, STAKE, ScriptedNode, key_of

COORDINATOR = key_of(999_999)
IDENTITY = Identity(COORDINATOR.address, 31337, LEDGER, STAKE, 500, "test")
HEAD = ChainHead(block_number=100, epoch=3)


class StakeList:
    """Stakes by list; nobody else is registered."""

    def __init__(self, *nodes: ScriptedNode) -> None:
        self.stakes: dict[Address, NodeStake] = {}
        for node in nodes:
            self.register(node)

    def register(self, node: ScriptedNode, *, eligible: bool = True, active: bool = True) -> None:
        """Put a stake behind `node`."""
        self.stakes[node.address] = NodeStake(node.operator, active, NanoUsd(10**12), eligible)

    async def node_stake(self, node: Address) -> NodeStake:
        """Return what was registered."""
        return self.stakes.get(node, NodeStake(ZERO_ADDRESS, False, NanoUsd(0), False))


@dataclass
class Notes:
    """A NodeWatcher that takes notes and has one answer for late receipts."""

    joins: list[Address] = field(default_factory=list)
    leaves: list[Address] = field(default_factory=list)
    offers: list[Sequence[ModelOffer]] = field(default_factory=list)
    late: list[Finished] = field(default_factory=list)
    answer: ReceiptTaken | ReceiptRefused | None = None

    def joined(self, node: NodeView, hello: Hello) -> None:
        """Note it."""
        self.joins.append(node.address)

    def offered(self, node: Address, models: Sequence[ModelOffer]) -> None:
        """Note it."""
        self.offers.append(models)

    def left(self, node: Address) -> None:
        """Note it."""
        self.leaves.append(node)

    async def late_receipt(self, node: Address, finished: Finished) -> ReceiptTaken | ReceiptRefused | None:
        """Note it, and give the answer."""
        self.late.append(finished)
        return self.answer


def a_hub(
    stakes: StakeList,
    watcher: NodeWatcher,
    rules: HubRules | None = None,
    history: History | None = None,
) -> WebSocketHub:
    """Return a hub that has not started."""
    return WebSocketHub(
        IDENTITY,
        stakes=stakes,
        watcher=watcher,
        history=history or History(),
        clock=SystemClock(),
        head=lambda: HEAD,
        rules=rules or HubRules(heartbeat_ms=100, node_timeout=0.6),
    )


@contextlib.asynccontextmanager
async def listening(app: Starlette) -> AsyncIterator[str]:
    """Serve an application on a free loopback port; yields its `http://` address."""
    config = uvicorn.Config(app, lifespan="off", log_level="error", ws="websockets-sansio", ws_max_size=2**23)
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await running


@contextlib.asynccontextmanager
async def served(serve: Callable[[WebSocket], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve nodes on a free loopback port; yields the websocket's URL."""
    app = Starlette(routes=[WebSocketRoute("/v1/nodes/connect", serve)])
    async with listening(app) as url:
        yield f"{url.replace('http', 'ws', 1)}/v1/nodes/connect"


@contextlib.asynccontextmanager
async def running_hub(hub: WebSocketHub) -> AsyncIterator[str]:
    """Start `hub` and serve it; yields the websocket's URL."""
    await hub.start()
    async with served(hub.serve) as url:
        try:
            yield url
        finally:
            await hub.close()


async def eventually(is_it: Callable[[], bool], timeout: float = 30) -> None:
    """Return once `is_it` holds; raises TimeoutError if it never does."""
    async with asyncio.timeout(timeout):
        while not is_it():  # noqa: ASYNC110 - for states that have no event
            await asyncio.sleep(0.005)
