"""`tallystick coordinator …`: what the operator does to the coordinator itself, while it is stopped."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from marketplace.app import Coordinator, coordinator
from marketplace.commands import rotation
from marketplace.commands.books import DataDir, local_settings
from marketplace.commands.local import local_chain
from marketplace.domain.errors import MarketError
from marketplace.settings import Settings
from tallystick.anvil import AnvilMissing
from tallystick.commands.console import AsJson, CommandFailed, errors, facts, foreseen, show
from tallystick.deployment import BadDeployment
from tallystick.evm import EvmError
from tallystick.protocol.ids import to_hex
from tallystick.protocol.keys import SigningKey

LOCAL_EPOCH_SECONDS = 20

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="What the operator does to a coordinator that is stopped.",
    epilog="Example: tallystick coordinator rotate-key --owner-key owner.key",
)


@app.callback()
def _group() -> None:
    """What the operator does to a coordinator that is stopped."""


@app.command("rotate-key")
@foreseen(MarketError, BadDeployment, EvmError, AnvilMissing, ValueError, OSError)
def rotate_key(
    owner_key: Annotated[
        Path | None,
        typer.Option(help="File with the Ledger owner's key (hex). Without it the transactions are printed."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Start the local chain of `up --local` for it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hand the coordinator over to a new key. Stop it first: jobs that run then end, and nothing is lost.

    Says what the owner sends before it is sent. Where the owner's key is elsewhere, it prints the
    transactions and ends with code 2: send them from there, and run the same command again.

    Example: tallystick coordinator rotate-key --owner-key owner.key
    """
    settings = local_settings(data_dir)
    owner = _owner_key(settings, owner_key, local)
    told = asyncio.run(_rotate(settings, owner, local=local, yes=yes))
    show(told, as_json, facts)
    if told["to_be_sent_by_owner"]:
        raise typer.Exit(2)


async def _rotate(settings: Settings, owner: SigningKey | None, *, local: bool, yes: bool) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        if local:
            chain = local_chain(settings, rpc_port=0, epoch_seconds=LOCAL_EPOCH_SECONDS)
            await stack.enter_async_context(chain)
        parts = await stack.enter_async_context(coordinator(settings, is_local=local))
        if (await parts.chain.ledger()).coordinator == parts.side.key.address:
            if parts.side.deployment.coordinator != parts.side.key.address:
                return _finished(settings, parts)
            await rotation.finish_epoch(parts)
        key = rotation.next_key(settings)
        planned = await rotation.plan(parts, key)
        if owner is None and planned.steps:
            return _told(planned) | {"next": "send these from the owner, then run this again"}
        if owner is not None:
            _confirm(planned, yes)
            await rotation.send(parts, owner, planned)
        return await _hand_over(settings, parts, key)


async def _hand_over(settings: Settings, parts: Coordinator, key: SigningKey) -> dict[str, Any]:
    done = await rotation.plan(parts, key)
    if done.steps:
        raise CommandFailed(f"the chain does not show it yet: {done.steps[0].what}; run this again")
    await rotation.hand_on_gas(parts, key.address)
    retired = rotation.put_in_place(settings, done)
    gas = await parts.side.connection.gas_money(key.address)
    return _told(done) | {
        "gas_money": f"{gas / 10**18:.6f}",
        "old_key_kept_in": str(retired),
        "next": "start the coordinator"
        if gas
        else f"send {key.address} some of the chain's coin, then start",
    }


def _finished(settings: Settings, parts: Coordinator) -> dict[str, Any]:
    """The last hand-over was cut off after its last step but one."""
    old, new = parts.side.deployment.coordinator, parts.side.key.address
    rotation.note_coordinator(settings, new)
    done = rotation.Rotation(old, new, parts.side.deployment.owner, ())
    return _told(done) | {"next": "start the coordinator"}


def _told(planned: rotation.Rotation) -> dict[str, Any]:
    return {
        "old_coordinator": planned.old,
        "new_coordinator": planned.new,
        "owner": planned.owner,
        "to_be_sent_by_owner": [
            {"what": one.what, "to": one.call.to, "data": to_hex(one.call.data)} for one in planned.steps
        ],
    }


def _confirm(planned: rotation.Rotation, yes: bool) -> None:
    if yes or not planned.steps:
        return
    for step in planned.steps:
        errors.print(f"  • {step.what}", markup=False)
    typer.confirm(f"Send {len(planned.steps)} transaction(s) from {planned.owner}?", abort=True, err=True)


def _owner_key(settings: Settings, given: Path | None, local: bool) -> SigningKey | None:
    path = given or (settings.data_dir / "keys" / "owner" if local else None)
    if path is None:
        return None
    try:
        return SigningKey(bytes.fromhex(path.read_text().strip().removeprefix("0x")))
    except ValueError as error:
        raise ValueError(f"{path} is not a file with a private key in hexadecimal") from error
