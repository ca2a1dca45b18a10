"""Transactions: nothing is sent that was not said first, nor while jobs run that it would disturb."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any, Final

import typer

from provider.control import NotRunning, ask
from provider.wallet import Operator, Step, sent
from tallystick.commands.console import errors, facts
from tallystick.evm import Wallet
from tallystick.protocol.keys import SigningKey

DRAIN_SLACK_SECONDS: Final = 15
"""For handing over, and for the coordinator's last answers."""


async def drained(home: Path, seconds: int) -> bool:
    """Let a running agent end its jobs, for `seconds` and some slack; return whether none runs any more."""
    until = time.monotonic() + seconds + DRAIN_SLACK_SECONDS
    with contextlib.suppress(NotRunning):
        await ask(home, {"do": "drain"})
        while time.monotonic() < until:
            await asyncio.sleep(0.2)
            await ask(home, {"do": "status"})
        return False
    return True


async def confirm(operator: Operator, key: SigningKey, steps: list[Step], yes: bool) -> None:
    """Simulate, say what will be sent and what it costs, and ask; with `yes` only simulate.

    Raises Reverted if the first step would fail, Abort if the answer is no.
    """
    # Later steps may depend on earlier ones, so only the first can be simulated before anything is sent;
    # each of the others is simulated right before its own turn.
    cost = await Wallet(operator.connection, key).cost(steps[0].call)
    if yes:
        return
    # On stderr: with --json, stdout has the document and nothing else.
    for step in steps:
        errors.print(f"  • {step.what}", markup=False)
    errors.print(f"Gas for the first: at most {cost.wei / 10**18:.6f} of the chain's coin ({cost.gas} gas).")
    typer.confirm(f"Send {len(steps)} transaction(s)?", abort=True, err=True)


async def send(operator: Operator, key: SigningKey, steps: list[Step]) -> list[dict[str, Any]]:
    """Send the steps one by one; return what came of them. Raises EvmError; those before it stand."""
    wallet = Wallet(operator.connection, key)
    return [sent(step, await wallet.send(step.call)) for step in steps]


async def confirm_and_send(
    operator: Operator, key: SigningKey, steps: list[Step], yes: bool
) -> list[dict[str, Any]]:
    """Confirm and send; no steps are no transactions."""
    if not steps:
        return []
    await confirm(operator, key, steps, yes)
    return await send(operator, key, steps)


def with_transactions(told: dict[str, Any]) -> Any:
    """Return what people read of a command that sent transactions: two lines for each of them."""
    lines = [
        f"{one['what']}: block {one['block']}, {one['gas_used']} gas\n{one['transaction']}"
        for one in told["transactions"]
    ]
    return facts(told | {"transactions": lines or "nothing was left to send"})
