"""Where the killing happens: a chain of its own, contracts on it, a data directory, and two agents.

The chain is no child of the coordinator, so that a kill hits the coordinator alone.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from provider.agent import Agent
from provider.config import ModelConfig, ProviderConfig
from provider.engines.echo import EchoEngine
from provider.evidence import Evidence
from provider.serving import ServedModel
from provider.wallet import Operator
from tallystick.anvil import running_anvil
from tallystick.deployment import LOCAL_TERMS, Contracts, Deployment, deploy, endow
from tallystick.evm import Connection, Wallet
from tallystick.evm.connection import connected
from tallystick.models.manifest import model_id
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NANO_PER_USD, NanoUsd

EPOCH_SECONDS = 4
SLOTS = 32
TOKEN_SECONDS = 0.002
STAKE = NanoUsd(20 * NANO_PER_USD)
PLENTY = NanoUsd(10_000 * NANO_PER_USD)
TERMS = replace(LOCAL_TERMS, settlement_lag=600, thaw=1200, bond_release=2400, unbonding=1800)
"""Short epochs, and nothing that ends or thaws by itself meanwhile."""
SETTINGS = {
    "CONFIRMATIONS": "1",
    "CHAIN_POLL_SECONDS": "0.3",
    "SETTLE_POLL_SECONDS": "0.3",
    "LEASE_SECONDS": "2",
    "MATURITY_LAG_SECONDS": "1",
    "ROW_THRESHOLD_USD": "0.000001",
    "LONGEST_WAIT_EPOCHS": "1",
    "ROWS_PER_CHUNK": "3",
    "SIGNUP_CREDIT_USD": "5",
    "GOODWILL_DAILY_USD": "100",
    "ADDRESS_REQUESTS_PER_MINUTE": "0",
    "KEY_REQUESTS_PER_MINUTE": "0",
    "SIGN_UPS_PER_HOUR": "0",
    "HEARTBEAT_SECONDS": "0.5",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "json",
}
"""Everything that takes hours takes seconds, so that every step of settlement is met by a kill."""


@dataclass
class Stage:
    """A market whose coordinator somebody else starts and kills."""

    folder: Path
    port: int
    connection: Connection
    deployment: Deployment
    owner: Wallet
    configs: list[tuple[ProviderConfig, SigningKey]] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        """Where the coordinator keeps everything."""
        return self.folder / "coordinator"

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def books_url(self) -> str:
        """The books, for who looks into them beside it."""
        return f"sqlite+pysqlite:///{self.data_dir}/books.sqlite"

    @property
    def environment(self) -> dict[str, str]:
        """The coordinator's settings."""
        told = {"DATA_DIR": str(self.data_dir), "PORT": str(self.port)} | SETTINGS
        return {f"TALLYSTICK_{name}": value for name, value in told.items()}

    async def mine_every(self, seconds: int) -> None:
        """Make blocks at that pace from now on; 0: one for each transaction, at once."""
        if seconds:
            await self.connection.rpc("evm_setIntervalMining", seconds)
        else:
            await self.connection.rpc("evm_setAutomine", True)

    async def give(self, wallet: Wallet, dollars: NanoUsd) -> None:
        """Give a wallet gas and test dollars."""
        await self.connection.rpc("anvil_setBalance", wallet.address, hex(10**20))
        token = Contracts.at(self.connection, self.deployment).token
        await self.owner.send(token.prepare("mint", wallet.address, dollars // 1000))

    async def deposit(self, wallet: Wallet, dollars: NanoUsd) -> None:
        """Deposit for a consumer, who authorizes all of it."""
        contracts = Contracts.at(self.connection, self.deployment)
        await self.give(wallet, dollars)
        await wallet.send(contracts.token.prepare("approve", contracts.ledger.address, dollars // 1000))
        await wallet.send(contracts.ledger.prepare("deposit", dollars // 1000, dollars))

    @contextlib.asynccontextmanager
    async def agents(self) -> AsyncIterator[None]:
        """Run all agents; they come with the evidence of their earlier lives, and end without draining."""
        tasks, kept = [], []
        for number, (config, key) in enumerate(self.configs):
            evidence = Evidence(self.folder / f"agent-{number}.sqlite")
            kept.append(evidence)
            served = ServedModel(_engine(), config.models[0])
            agent = Agent(config, key, [served], evidence, software="bench", hardware="none")
            tasks.append(asyncio.create_task(agent.run()))
        try:
            yield
        finally:
            waiting = set(tasks)
            while waiting:
                # A cancellation that comes at the end of a wait is lost in Python 3.11, so it is repeated.
                for task in waiting:
                    task.cancel()
                _, waiting = await asyncio.wait(waiting, timeout=20)
            for evidence in kept:
                evidence.close()

    def unanswered(self) -> int:
        """Return how many receipts the agents still carry without the coordinator's word."""
        total = 0
        for number in range(len(self.configs)):
            evidence = Evidence(self.folder / f"agent-{number}.sqlite")
            total += evidence.pending_count()
            evidence.close()
        return total


@contextlib.asynccontextmanager
async def a_stage(
    folder: Path, *, agents: int = 2, epoch_seconds: int = EPOCH_SECONDS
) -> AsyncIterator[Stage]:
    """Give a stage in a folder that is empty or missing; the chain ends with it."""
    async with running_anvil() as anvil, connected(anvil.rpc_url) as connection:
        await connection.rpc("evm_setAutomine", True)
        owner, secret = Wallet(connection, SigningKey(secrets.token_bytes(32))), secrets.token_bytes(32)
        coordinator = SigningKey(secret)
        for address in (owner.address, coordinator.address):
            await connection.rpc("anvil_setBalance", address, hex(10**22))
        deployment = await deploy(
            owner, coordinator, rpc_url=anvil.rpc_url, terms=replace(TERMS, epoch_length=epoch_seconds)
        )
        await endow(owner, Contracts.at(connection, deployment), deposit=PLENTY, bond=PLENTY)
        stage = Stage(folder, free_port(), connection, deployment, owner)
        deployment.save(stage.data_dir / "deployment.json")
        _store_key(stage.data_dir / "keys" / "coordinator", secret)
        for _ in range(agents):
            stage.configs.append(await _stake(stage))
        yield stage


async def _stake(stage: Stage) -> tuple[ProviderConfig, SigningKey]:
    secret = secrets.token_bytes(32)
    operator, node = SigningKey(secret), SigningKey(secrets.token_bytes(32))
    place = stage.deployment
    config = ProviderConfig(
        coordinator=f"{stage.base_url}/v1",
        chain_id=place.chain_id,
        ledger=place.ledger,
        stake=place.stake,
        token=place.token,
        operator=operator.address,
        node=node.address,
        rpc_url=place.rpc_url,
        models=[ModelConfig(engine="echo", model="echo", slots=SLOTS)],
    )
    await stage.give(Wallet(stage.connection, operator), STAKE)
    agent = Operator(config, stage.connection)
    models = [model_id(_engine().manifest_bytes)]
    await agent.send(operator, await agent.register_steps(secret, node, STAKE, models))
    return config, node


def _engine() -> EchoEngine:
    return EchoEngine(slots=SLOTS, seconds_per_token=TOKEN_SECONDS, tokens_per_event=8)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _store_key(path: Path, secret: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(secret.hex())


def plain_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of a coordinator, and `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TALLYSTICK_")} | more
