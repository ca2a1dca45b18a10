"""A whole coordinator on a real socket: its own books, contracts on a local chain, real agents at its hub.

It runs in a thread with an event loop of its own, so that tests can use the official, blocking clients.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI
from openai import OpenAI
from sqlalchemy.orm import Session

from marketplace.app import Coordinator, coordinator
from marketplace.domain.accounts import TREASURY_ID
from marketplace.settings import Settings
from marketplace.storage.tables import Account
from marketplace.transport.patience import Patience, patient_http
from provider.agent import Agent
from provider.config import ProviderConfig
from provider.wallet import Operator
from tallystick.deployment import Deployment
from tallystick.models.manifest import model_id
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd
from tests.support.acting import ActingEngine, Acts
from tests.support.agents import a_config, an_agent, running
from tests.support.anvil import USD, Market, anvil_process, market_at
from tests.support.hubs import eventually
from tests.support.nodes import key_of

T = TypeVar("T")

OPERATOR_SECRET = (4712).to_bytes(32, "big")
OPERATOR = SigningKey(OPERATOR_SECRET)
"""Stakes for every node here."""
NODE = 4711
COORDINATOR_SECRET = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
"""Anvil's account 1, which the contracts know as their coordinator; everybody has this key."""
DEPOSIT = 10_000 * USD
"""The treasury's: a dollar for each account that a test opens."""
PATIENCE = 30


class Background:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="coordinator", daemon=True)
        self._thread.start()

    def do(self, doing: Coroutine[Any, Any, T]) -> T:
        """Run `doing` there, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(PATIENCE)

    @contextlib.contextmanager
    def hold(self, manager: "contextlib.AbstractAsyncContextManager[T]") -> Iterator[T]:
        """Enter an asynchronous context there; it is left there, by the task that entered it."""
        entered: Future[T] = Future()
        leave = asyncio.Event()

        async def live() -> None:
            try:
                async with manager as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if not entered.done():
                    entered.set_exception(error)
                    return
                raise

        living = asyncio.run_coroutine_threadsafe(live(), self.loop)
        value = entered.result(60)
        try:
            yield value
        finally:
            self.loop.call_soon_threadsafe(leave.set)
            living.result(60)

    def close(self) -> None:
        """Stop the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@dataclass
class Place:
    """The contracts on a chain of their own, and an operator that has staked for node `NODE` on it."""

    background: Background
    market: Market
    acts: Acts = field(default_factory=Acts)

    @property
    def deployment(self) -> Deployment:
        """Where the contracts are."""
        return self.market.deployment

    def config(self, url: str) -> ProviderConfig:
        """Return the agent's configuration for the coordinator at `url`."""
        place = self.deployment
        return a_config(
            url,
            NODE,
            chain_id=place.chain_id,
            ledger=place.ledger,
            stake=place.stake,
            token=place.token,
            operator=OPERATOR.address,
            node=key_of(NODE).address,
            rpc_url=place.rpc_url,
        )


@contextlib.contextmanager
def a_place() -> Iterator[Place]:
    """Give the contracts on a fresh chain, with one staked node."""
    background = Background()
    try:
        with anvil_process() as url, background.hold(market_at(url, deposit=DEPOSIT)) as market:
            place = Place(background, market)
            background.do(_stake(place))
            yield place
    finally:
        background.close()


async def _stake(place: Place) -> None:
    market = place.market
    await market.connection.rpc("anvil_setBalance", OPERATOR.address, hex(10**20))
    await market.give_dollars(OPERATOR.address, 50 * USD)
    operator = Operator(place.config("http://127.0.0.1:1/v1"), market.connection)
    models = [model_id(ActingEngine(place.acts).manifest_bytes)]
    steps = await operator.register_steps(OPERATOR_SECRET, key_of(NODE), NanoUsd(20 * USD), models)
    await operator.send(OPERATOR, steps)
    await market.mine(2)


@dataclass
class Server:
    """A running coordinator, and what tests do to it."""

    place: Place
    parts: Coordinator
    folder: Path
    acts: Acts
    app: FastAPI
    agent: Agent | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return self.parts.settings.address

    def do(self, doing: Coroutine[Any, Any, T]) -> T:
        """Run `doing` in the server's own event loop."""
        return self.place.background.do(doing)

    def read(self, work: Callable[[Session], T]) -> T:
        """Return what `work` finds in the books."""
        return self.do(self.parts.database.read(work))

    def write(self, work: Callable[[Session], T]) -> T:
        """Do `work` on the books."""
        return self.do(self.parts.database.write(work))

    def account(self, account_id: str = TREASURY_ID) -> Account:
        """Return an account's row."""

        def work(session: Session) -> Account:
            account = session.get(Account, account_id)
            assert account is not None
            return account

        return self.read(work)

    def quiet(self) -> None:
        """Wait until no job runs."""
        self.do(eventually(lambda: self.parts.market.running == 0, 10))

    @contextlib.contextmanager
    def openai(self, key: str, **options: Any) -> Iterator[OpenAI]:
        """Give the official client, which never retries unless `options` say so."""
        with OpenAI(
            base_url=f"{self.url}/v1", api_key=key, **({"max_retries": 0, "timeout": 20} | options)
        ) as client:
            yield client

    @contextlib.contextmanager
    def http(self, key: str = "") -> Iterator[httpx.Client]:
        """Give a plain client that sends `key`."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False) as client:
            yield client


@contextlib.contextmanager
def a_server(place: Place, folder: Path, *, with_node: bool = True, **changes: Any) -> Iterator[Server]:
    """Run a coordinator over new books at `folder`; `changes` are its settings."""
    with place.background.hold(_running(place, folder, with_node, changes)) as server:
        yield server


@contextlib.asynccontextmanager
async def _running(
    place: Place, folder: Path, with_node: bool, changes: dict[str, Any]
) -> AsyncIterator[Server]:
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        # So that a reader who does not read is in the way after little.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        settings = _settings(place, folder, listener.getsockname()[1], changes)
        parts = await stack.enter_async_context(coordinator(settings, is_local=True))
        app = await stack.enter_async_context(parts.running())
        patience = Patience(
            settings.request_seconds,
            settings.write_seconds,
            look_every=0.2,
            crowd=parts.crowd,
            proxies=frozenset(settings.trusted_proxies),
        )
        await stack.enter_async_context(_serving(app, listener, patience))
        server = Server(place, parts, folder, place.acts, app)
        await _until(lambda: _treasury_is_seen(parts))
        if with_node:
            server.agent = await stack.enter_async_context(_agent(server))
        yield server


def _settings(place: Place, folder: Path, port: int, changes: dict[str, Any]) -> Settings:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "key").exists():
        place.deployment.save(folder / "deployment.json")
        (folder / "key").write_text(COORDINATOR_SECRET)
        os.chmod(folder / "key", 0o600)
    fields: dict[str, Any] = {
        "data_dir": folder,
        "port": port,
        "coordinator_key": "key",
        "confirmations": 0,
        "chain_poll_seconds": 0.2,
        "maturity_lag_seconds": 3600,
        "signup_credit_usd": "1",
        "signup_credit_daily_usd": "1000",
        "address_requests_per_minute": 0,
        "key_requests_per_minute": 0,
        "sign_ups_per_hour": 0,
        "failover_seconds": 0.3,
        "queue_seconds": 0.3,
        "cancel_seconds": 5,
        "heartbeat_seconds": 0.5,
        "node_timeout_seconds": 20,
        "aliases": {"gpt-4o-mini": "echo"},
    }
    return Settings(_env_file=None, **(fields | changes))  # type: ignore[call-arg]


@contextlib.asynccontextmanager
async def _serving(app: Any, listener: socket.socket, patience: Patience) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=patient_http(patience),
        ws="websockets-sansio",
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started, 10)
    try:
        yield
    finally:
        server.should_exit = True
        server.force_exit = True
        await serving


@contextlib.asynccontextmanager
async def _agent(server: Server) -> AsyncIterator[Agent]:
    home = server.folder / "agent"
    home.mkdir(exist_ok=True)
    agent = an_agent(server.place.config(f"{server.url}/v1"), home, NODE, ActingEngine(server.acts))
    async with running(agent):
        await eventually(
            lambda: (
                any(node.eligible for node in server.parts.hub.nodes())
                and all(server.parts.catalog.by_id(model) for model in agent.models)
            ),
            15,
        )
        yield agent


async def _until(is_it: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await is_it():  # noqa: ASYNC110 - books have no event
            await asyncio.sleep(0.02)


async def _treasury_is_seen(parts: Coordinator) -> bool:
    def work(session: Session) -> bool:
        treasury = session.get(Account, TREASURY_ID)
        return treasury is not None and treasury.balance > 0

    return await parts.database.read(work)
