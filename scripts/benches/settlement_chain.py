"""A chain for `bench settlement`: Anvil with the contracts, and thousands of consumers with deposits."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import aiohttp

from scripts.benches.settlement_books import SPENT_EACH, key, may_charge_ahead
from tallystick.anvil import anvil_key, running_anvil
from tallystick.deployment import LOCAL_TERMS, Contracts, Deployment, deploy, endow
from tallystick.evm import Wallet
from tallystick.evm.connection import connected
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NANO_PER_USD, NanoUsd, to_units_down

OWNER: Final = 0
COORDINATOR: Final = 1
DEPOSIT: Final = NanoUsd(2 * SPENT_EACH)
EPOCH_SECONDS: Final = 86_400
_TERMS = replace(
    LOCAL_TERMS,
    epoch_length=EPOCH_SECONDS,
    settlement_lag=EPOCH_SECONDS,
    thaw=4 * EPOCH_SECONDS,
    bond_release=14 * EPOCH_SECONDS,
    unbonding=4 * EPOCH_SECONDS,
)
_CALLS_A_REQUEST: Final = 500
_GAS: Final = hex(120_000)

Request = tuple[str, list[Any]]


class BenchChain:
    """A chain whose state can be taken back to when the consumers had deposited."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._snapshot = ""

    async def fund(self, accounts: int) -> None:
        """Deposit for all consumers, and let those authorize that do not sign consents; remember that."""
        ahead = [key("consumer", one).address for one in range(accounts) if may_charge_ahead(one)]
        everyone = [key("consumer", one).address for one in range(accounts)]
        owner = anvil_key(OWNER)
        async with connected(self.deployment.rpc_url) as connection:
            contracts = Contracts.at(connection, self.deployment)
            wallet = Wallet(connection, owner)
            units = to_units_down(DEPOSIT)
            await wallet.send(contracts.token.prepare("mint", owner.address, units * accounts))
            await wallet.send(contracts.token.prepare("approve", contracts.ledger.address, units * accounts))
            deposits = [contracts.ledger.prepare("depositFor", one, units).data for one in everyone]
            nonce = await connection.nonce(owner.address)
            right = contracts.ledger.prepare("authorize", DEPOSIT).data
        ledger = self.deployment.ledger
        requests: list[Request] = [
            ("eth_sendTransaction", [_transaction(owner.address, ledger, data, nonce + at)])
            for at, data in enumerate(deposits)
        ]
        requests += [("anvil_setBalance", [one, hex(10**18)]) for one in ahead]
        requests += [("eth_sendTransaction", [_transaction(one, ledger, right, 0)]) for one in ahead]
        # All in one block: Anvil takes much longer over one block for each.
        await self._send([("anvil_autoImpersonateAccount", [True]), ("evm_setAutomine", [False])])
        await self._send([("evm_setBlockGasLimit", [hex(accounts * 200_000)])])
        await self._send(requests)
        await self._send([("anvil_mine", ["0x1"]), ("anvil_mine", ["0x1"])])
        (left,) = await self._send([("txpool_status", [])])
        if int(left["pending"], 16) or int(left["queued"], 16):
            raise RuntimeError(f"not all deposits were mined: {left}")
        await self._send([("anvil_autoImpersonateAccount", [False]), ("evm_setAutomine", [True])])
        await self._send([("evm_setBlockGasLimit", [hex(30_000_000)])])
        await self._remember()

    async def take_back(self) -> None:
        """Undo everything since the consumers deposited."""
        (done,) = await self._send([("evm_revert", [self._snapshot])])
        if done is not True:
            raise RuntimeError("the chain does not go back to its snapshot")
        await self._remember()

    async def end_epoch(self) -> None:
        """Let the running epoch end."""
        await self._send([("evm_increaseTime", [hex(EPOCH_SECONDS)]), ("anvil_mine", ["0x1"])])

    async def tick(self) -> None:
        """Make a block every second from now on."""
        await self._send([("evm_setAutomine", [False]), ("evm_setIntervalMining", [1])])

    async def _remember(self) -> None:
        (self._snapshot,) = await self._send([("evm_snapshot", [])])

    async def _send(self, requests: Sequence[Request]) -> list[Any]:
        answers: list[Any] = []
        async with aiohttp.ClientSession() as http:
            for first in range(0, len(requests), _CALLS_A_REQUEST):
                body = [
                    {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
                    for at, (method, params) in enumerate(requests[first : first + _CALLS_A_REQUEST])
                ]
                async with http.post(self.deployment.rpc_url, json=body) as answer:
                    found = json.loads(await answer.read())
                for one in sorted(found, key=lambda one: one["id"]):
                    if "error" in one:
                        raise RuntimeError(f"{body[one['id']]['method']}: {one['error']}")
                    answers.append(one["result"])
        return answers


def _transaction(sender: Address, to: Address, data: bytes, nonce: int) -> dict[str, str]:
    price = hex(10 * 10**9)
    return {
        "from": sender,
        "to": to,
        "data": "0x" + data.hex(),
        "nonce": hex(nonce),
        "gas": _GAS,
        "gasPrice": price,
    }


@asynccontextmanager
async def bench_chain() -> AsyncIterator[BenchChain]:
    """Give a chain that mines every transaction at once, with the contracts and a rich treasury."""
    async with running_anvil() as anvil, connected(anvil.rpc_url) as connection:
        await connection.rpc("evm_setIntervalMining", 0)
        await connection.rpc("evm_setAutomine", True)
        await asyncio.sleep(0)
        wallet = Wallet(connection, anvil_key(OWNER))
        deployment = await deploy(wallet, anvil_key(COORDINATOR), rpc_url=anvil.rpc_url, terms=_TERMS)
        rich = NanoUsd(1_000_000 * NANO_PER_USD)
        await endow(wallet, Contracts.at(connection, deployment), deposit=rich, bond=rich)
        yield BenchChain(deployment)
