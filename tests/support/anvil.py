"""Chains for tests: a local Anvil, contracts on it, and what a test does to a chain."""

import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tallystick.anvil import anvil_key, find_anvil
from tallystick.deployment import LOCAL_TERMS, Contracts, Deployment, Terms, deploy, endow
from tallystick.evm import Connection, Mined, Wallet, connect
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd

OWNER, COORDINATOR = 0, 1
"""Anvil's accounts that own the contracts and run the market; consumers and operators are others."""

USD = 1_000_000_000
LONG_TERMS = replace(
    LOCAL_TERMS, epoch_length=100, settlement_lag=100, thaw=400, bond_release=400, unbonding=400
)
"""Terms under which nothing ends by itself while a test runs; tests move the chain's clock."""


@contextmanager
def anvil_process(*arguments: str) -> Iterator[str]:
    """Give the URL of a fresh chain; without arguments it mines every transaction at once."""
    with tempfile.TemporaryDirectory(prefix="anvil-") as folder:
        said = Path(folder) / "said"
        with said.open("wb") as output:
            command = [str(find_anvil()), "--host", "127.0.0.1", "--port", "0", *arguments]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{_port(process, said)}"
        finally:
            process.terminate()
            process.wait(10)


def _port(process: "subprocess.Popen[bytes]", said: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(r"Listening on 127\.0\.0\.1:(\d+)", said.read_text(errors="replace")):
            return match[1]
        time.sleep(0.02)
    raise RuntimeError(f"Anvil does not start: {said.read_text(errors='replace')[-500:]}")


@dataclass(frozen=True)
class Market:
    """Contracts on a chain, the wallets that own and run them, and levers on the chain."""

    connection: Connection
    deployment: Deployment
    contracts: Contracts
    owner: Wallet
    coordinator_key: SigningKey

    def wallet(self, index: int) -> Wallet:
        """Return the wallet of one of Anvil's rich accounts; take it once per test."""
        return Wallet(self.connection, anvil_key(index))

    async def give_dollars(self, to: Address, amount: int) -> None:
        """Mint test dollars; `amount` is in nano-dollars."""
        await self.owner.send(self.contracts.token.prepare("mint", to, amount // 1000))

    async def deposit(self, consumer: Wallet, amount: int, authorized: int = 0) -> Mined:
        """Mint and deposit `amount` nano-dollars for `consumer`, who authorizes `authorized` ever."""
        await self.give_dollars(consumer.address, amount)
        await consumer.send(
            self.contracts.token.prepare("approve", self.contracts.ledger.address, amount // 1000)
        )
        return await consumer.send(self.contracts.ledger.prepare("deposit", amount // 1000, authorized))

    async def mine(self, blocks: int = 1) -> None:
        """Make blocks."""
        await self.connection.rpc("anvil_mine", hex(blocks))

    async def wait(self, seconds: int) -> None:
        """Move the chain's clock forward and make a block."""
        await self.connection.rpc("evm_increaseTime", hex(seconds))
        await self.mine()

    async def reorganise(self, depth: int) -> None:
        """Replace the last `depth` blocks by empty ones."""
        await self.connection.rpc("anvil_reorg", depth, [])


@asynccontextmanager
async def market_at(
    rpc_url: str, *, terms: Terms = LONG_TERMS, deposit: int = 100 * USD, bond: int = 100 * USD
) -> AsyncIterator[Market]:
    """Give the contracts, freshly deployed, with a treasury deposit and a bond (nano-dollars)."""
    connection = await connect(rpc_url)
    try:
        owner = Wallet(connection, anvil_key(OWNER))
        coordinator = anvil_key(COORDINATOR)
        deployment = await deploy(owner, coordinator, rpc_url=rpc_url, terms=terms)
        contracts = Contracts.at(connection, deployment)
        await endow(owner, contracts, deposit=NanoUsd(deposit), bond=NanoUsd(bond))
        yield Market(connection, deployment, contracts, owner, coordinator)
    finally:
        await connection.close()
