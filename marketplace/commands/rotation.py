"""The hand-over from one key of the coordinator's to the next, each step found again after a crash.

    finish the epoch that is on its way (old key) ─▶ setCoordinator, commitAuditSecret (owner)
        ─▶ what the old key has left for gas goes to the new one ─▶ the new key takes the old one's place

The coordinator is stopped meanwhile. What the old key has signed stays good: the Ledger honours its cheques
for as long as it keeps a bond, and the new key signs the latest again for operators that come back.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from marketplace.app import Chainside, Coordinator
from marketplace.commands.local import make_key
from marketplace.domain.ports.chain import LedgerState
from marketplace.settings import Settings
from tallystick.audit_secrets import audit_secret, audit_secret_hash
from tallystick.commands.console import CommandFailed
from tallystick.deployment import Contracts, Deployment
from tallystick.evm import Call, EvmError, Wallet
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

EPOCH_SECONDS: Final = 600
"""How long to wait for the epoch that is on its way; its transactions bid more every minute."""


@dataclass(frozen=True, slots=True)
class OwnerStep:
    """A transaction that only the Ledger's owner may send."""

    what: str
    call: Call


@dataclass(frozen=True, slots=True)
class Rotation:
    """From which key to which, and what the owner still has to send for it."""

    old: Address
    new: Address
    owner: Address
    steps: tuple[OwnerStep, ...]


def next_key_file(settings: Settings) -> Path:
    """Return where the next key waits for its turn."""
    return settings.coordinator_key_file.with_name(settings.coordinator_key_file.name + ".next")


async def plan(parts: Coordinator, key: SigningKey) -> Rotation:
    """Return what is left to do until `key` is the coordinator's. Raises CommandFailed, ChainUnavailable."""
    side, state = parts.side, await parts.chain.ledger()
    if state.coordinator not in (side.key.address, key.address):
        raise CommandFailed(
            f"the Ledger's coordinator is {state.coordinator}, and neither the key here ({side.key.address}) "
            f"nor the next one ({key.address}); is this another market's data directory?"
        )
    return Rotation(side.key.address, key.address, side.deployment.owner, tuple(_steps(side, state, key)))


def _steps(side: Chainside, state: LedgerState, key: SigningKey) -> list[OwnerStep]:
    ledger = Contracts.at(side.connection, side.deployment).ledger
    steps = []
    if state.coordinator != key.address:
        call = ledger.prepare("setCoordinator", key.address)
        steps.append(OwnerStep(f"make {key.address} the coordinator", call))
    wanted = audit_secret_hash(
        audit_secret(
            key,
            chain_id=side.deployment.chain_id,
            genesis=side.deployment.genesis,
            first_epoch=state.next_epoch,
        )
    )
    if state.audit_secret_hash != wanted:
        # Secrets are made from the key, so the one that is committed to is the old key's.
        call = ledger.prepare("commitAuditSecret", wanted)
        steps.append(OwnerStep(f"commit to its audit secret of epoch {state.next_epoch}", call))
    return steps


async def finish_epoch(parts: Coordinator) -> None:
    """Bring the epoch that is on its way to its end: only the key that began it can.

    Raises CommandFailed if it takes too long, ChainUnavailable.
    """
    try:
        async with asyncio.timeout(EPOCH_SECONDS):
            while await parts.back_office.finish_epoch():  # noqa: ASYNC110 - a chain has no event for it
                await asyncio.sleep(0.2)
    except TimeoutError as error:
        raise CommandFailed(
            "an epoch is on its way to the chain and does not get there; see tallystick logs, and try again"
        ) from error


async def send(parts: Coordinator, owner: SigningKey, rotation: Rotation) -> None:
    """Send what the owner has to. Raises EvmError, CommandFailed for another key than the owner's."""
    if not rotation.steps:
        return
    if owner.address != rotation.owner:
        raise CommandFailed(f"the Ledger's owner is {rotation.owner}, and that key is {owner.address}'s")
    wallet = Wallet(parts.side.connection, owner)
    for step in rotation.steps:
        await wallet.send(step.call)


async def hand_on_gas(parts: Coordinator, new: Address) -> int:
    """Send what the old key has left to the new one; return how much it was (wei), 0 if too little."""
    connection = parts.side.connection
    wallet = Wallet(connection, parts.side.key)
    has = await connection.gas_money(wallet.address)
    try:
        # Twice what it costs now: fees may rise before it is mined.
        left = has - 2 * (await wallet.cost(Call(new, b"", 1))).wei
        if left <= 0:
            return 0
        await wallet.send(Call(new, b"", left))
    except EvmError:
        # Whatever the reason, the hand-over does not hang on it; the command says what the new key has.
        return 0
    return left


def put_in_place(settings: Settings, rotation: Rotation) -> Path:
    """Make the next key the coordinator's; return where the old one is kept."""
    current, fresh = settings.coordinator_key_file, next_key_file(settings)
    retired = current.with_name(f"{current.name}.retired-{rotation.old}")
    if not retired.exists():
        os.link(current, retired)
    fresh.replace(current)
    note_coordinator(settings, rotation.new)
    return retired


def note_coordinator(settings: Settings, address: Address) -> None:
    """Let the deployment file say who the coordinator is."""
    known = Deployment.load(settings.deployment_file)
    if known.coordinator != address:
        replace(known, coordinator=address).save(settings.deployment_file)


def next_key(settings: Settings) -> SigningKey:
    """Return the key that comes next, made now if there is none yet."""
    return make_key(next_key_file(settings))
