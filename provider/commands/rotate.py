"""`rotate-node-key`: another key for the node, with no job, receipt or dollar lost.

    add the new node ─▶ drain the agent ─▶ all receipts answered? ─▶ swap the keys ─▶ remove the old node

The node's key is hot: it lies on a machine that serves strangers. Each step is found again after a crash, so
the same command goes on where it was cut off.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from provider.commands.options import FORESEEN, HOME_DEFAULT, Home, PassphraseFile, Yes, passphrase
from provider.commands.sending import confirm, drained, send, with_transactions
from provider.config import ProviderConfig, load_config, save_config
from provider.evidence import Evidence
from provider.keystore import address_of, key_path, load_key, make_key
from provider.wallet import Operator, operator_of
from tallystick.commands.console import AsJson, CommandFailed, foreseen, show
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Keys:
    """The operator's key, the node's next one, and where the nodes' keys are."""

    home: Path
    operator: SigningKey
    fresh: SigningKey


@app.command("rotate-node-key")
@foreseen(*FORESEEN, OSError)
def rotate_node_key(
    home: Home = HOME_DEFAULT,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Give the node a new key: add it, drain the agent, swap the keys, remove the old one.

    The operator stays, with its stake, its earnings and its cheques. Start the agent again afterwards.

    Example: tallystick provider rotate-node-key
    """
    config = load_config(home)
    words = passphrase(passphrase_file)
    if not key_path(home, "node.next").exists():
        make_key(home, "node.next", words)
    keys = Keys(home, load_key(home, "operator", words), load_key(home, "node.next", words))
    show(asyncio.run(_rotate(config, keys, yes)), as_json, with_transactions)


async def _rotate(config: ProviderConfig, keys: Keys, yes: bool) -> dict[str, Any]:
    old = config.node
    async with operator_of(config) as operator:
        steps = await operator.add_node_steps(keys.fresh)
        if steps:
            await confirm(operator, keys.operator, steps, yes)
        sent = await send(operator, keys.operator, steps)
        if not await drained(keys.home, config.drain_seconds):
            raise CommandFailed("the agent does not end; stop it (its service too), and run this again")
        _check_answered(keys.home)
        _put_in_place(keys, config)
        sent += await _remove_retired(operator, keys)
    key_path(keys.home, "node.next").unlink()
    return {
        "old_node": old,
        "node": keys.fresh.address,
        "operator": config.operator,
        "next": f"tallystick provider run --home {keys.home}",
        "transactions": sent,
    }


def _check_answered(home: Path) -> None:
    """Raise CommandFailed while receipts wait for an answer that only the old key's node can get."""
    evidence = Evidence(home / "evidence.sqlite")
    try:
        waiting = evidence.pending_count()
    finally:
        evidence.close()
    if waiting:
        raise CommandFailed(
            f"the coordinator has not answered {waiting} receipt(s) of the old key; start the agent once "
            f"more (tallystick provider run --home {home}) until it has, and run this again"
        )


def _put_in_place(keys: Keys, config: ProviderConfig) -> None:
    current = key_path(keys.home, "node")
    if address_of(keys.home, "node") != keys.fresh.address:
        retired = _retired(keys.home) / f"node.retired-{config.node}.json"
        if not retired.exists():
            os.link(current, retired)
        fresh = current.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        os.link(key_path(keys.home, "node.next"), fresh)
        fresh.replace(current)
    config.node = keys.fresh.address
    save_config(keys.home, config)


async def _remove_retired(operator: Operator, keys: Keys) -> list[dict[str, Any]]:
    found = sorted(_retired(keys.home).glob("node.retired-*.json"))
    addresses = [Address(path.stem.removeprefix("node.retired-")) for path in found]
    return await send(operator, keys.operator, await operator.remove_node_steps(addresses))


def _retired(home: Path) -> Path:
    return key_path(home, "node").parent
