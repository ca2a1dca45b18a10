"""A market on one machine: its own chain, its own contracts, keys that were made for it."""

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from marketplace.settings import Settings
from tallystick.anvil import start_anvil, stop_anvil
from tallystick.deployment import LOCAL_TERMS, BadDeployment, Contracts, Deployment, deploy, endow
from tallystick.evm import Wallet
from tallystick.evm.connection import connected
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NANO_PER_USD, NanoUsd

TREASURY_DEPOSIT: Final = NanoUsd(1_000 * NANO_PER_USD)
BOND: Final = NanoUsd(1_000 * NANO_PER_USD)
GAS_MONEY: Final = hex(1_000 * 10**18)


@asynccontextmanager
async def local_chain(settings: Settings, *, rpc_port: int, epoch_seconds: int) -> AsyncIterator[Deployment]:
    """Give a deployment on a chain that runs while the block does, the same again the next time.

    Raises AnvilMissing, EvmError, BadDeployment.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = make_key(settings.data_dir / "keys" / "owner")
    key = make_key(settings.coordinator_key_file)
    anvil = await start_anvil(port=_free(rpc_port), state=settings.data_dir / "anvil.json")
    try:
        yield await _deployed(settings, anvil.rpc_url, owner, key, epoch_seconds)
    finally:
        await stop_anvil(anvil)


async def _deployed(
    settings: Settings, rpc_url: str, owner: SigningKey, key: SigningKey, epoch_seconds: int
) -> Deployment:
    path = settings.deployment_file
    async with connected(rpc_url) as connection:
        for address in (owner.address, key.address):
            await connection.rpc("anvil_setBalance", address, GAS_MONEY)
        if path.exists():
            known = Deployment.load(path).at_rpc(rpc_url)
            if not await connection.has_code(known.ledger):
                # New contracts under old books would owe what they never got.
                raise BadDeployment(
                    f"the local chain has lost the contracts that the books in {settings.data_dir} are for; "
                    "move that folder away, or choose another --data-dir"
                )
            known.save(path)
            return known
        wallet = Wallet(connection, owner)
        terms = replace(
            LOCAL_TERMS,
            epoch_length=epoch_seconds,
            settlement_lag=2 * epoch_seconds,
            thaw=4 * epoch_seconds + 5,
            bond_release=9 * epoch_seconds,
            unbonding=4 * epoch_seconds + LOCAL_TERMS.case_window,
        )
        deployment = await deploy(wallet, key, rpc_url=rpc_url, terms=terms)
        await endow(wallet, Contracts.at(connection, deployment), deposit=TREASURY_DEPOSIT, bond=BOND)
        deployment.save(path)
        return deployment


def make_key(path: Path) -> SigningKey:
    """Return the key in a file that its owner alone can read, making one if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return SigningKey(bytes.fromhex(path.read_text().strip()))


def _free(port: int) -> int:
    """Return `port`, or 0 (any) if something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
