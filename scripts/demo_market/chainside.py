"""What the demo reads from the chain by itself, so that nothing it shows rests on the coordinator's word."""

import asyncio
from dataclasses import dataclass
from typing import Any

from scripts.demo_market.market import Market
from tallystick.evm import Contract
from tallystick.evm.connection import connected
from tallystick.protocol.ids import Address, to_address, to_bytes32
from tallystick.protocol.money import SCALE


@dataclass(frozen=True, slots=True)
class OnChain:
    """One address on the Ledger and the token; nano-dollars."""

    balance: int
    spent: int
    authorized: int
    earned: int
    claimed: int
    dollars: int


def look(market: Market, addresses: list[str]) -> dict[str, OnChain]:
    """Return where these addresses stand now."""

    async def read() -> dict[str, OnChain]:
        async with connected(market.rpc_url) as connection:
            ledger = Contract(connection, to_address(market.contracts["ledger"]), "Ledger")
            token = Contract(connection, to_address(market.contracts["token"]), "TestUSD")
            return {address: await _one(ledger, token, to_address(address)) for address in addresses}

    return asyncio.run(read())


def transaction(market: Market, transaction_hash: str) -> dict[str, Any]:
    """Return a mined transaction's block, status and gas."""

    async def read() -> dict[str, Any]:
        async with connected(market.rpc_url) as connection:
            mined = await connection.mined(to_bytes32(transaction_hash))
            if mined is None:
                return {"succeeded": False, "block": None, "gas_used": None}
            return {"succeeded": mined.succeeded, "block": mined.block_number, "gas_used": mined.gas_used}

    return asyncio.run(read())


async def _one(ledger: Contract, token: Contract, address: Address) -> OnChain:
    balance, spent, authorized, earned = await ledger.read("accountOf", address)
    claimed = await ledger.read("claimedOf", address)
    return OnChain(
        balance, spent, authorized, earned, claimed, await token.read("balanceOf", address) * SCALE
    )
