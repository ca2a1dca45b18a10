"""`exit`: out of the market with the stake, in two steps with a wait between them."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import typer

from provider.commands.options import FORESEEN, HOME_DEFAULT, Home, PassphraseFile, Yes, passphrase
from provider.commands.sending import confirm, drained, send, with_transactions
from provider.config import load_config
from provider.keystore import load_key
from provider.wallet import operator_of
from tallystick.commands.console import AsJson, CommandFailed, foreseen, show
from tallystick.protocol.money import format_usd

app = typer.Typer()


@app.command("exit")
@foreseen(*FORESEEN)
def leave(
    home: Home = HOME_DEFAULT,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Leave the market: drain the agent, remove the node, queue the stake.

    Later the same command takes the stake out. Until it is out it can still be slashed. What you earned can
    be claimed before, or any time later.

    Example: tallystick provider exit
    """
    config = load_config(home)

    async def act() -> dict[str, Any]:
        async with operator_of(config) as operator:
            steps = await operator.exit_steps()
            standing = await operator.standing()
            if not steps and not standing.leaving:
                raise CommandFailed("nothing is staked and the node is not active; there is nothing to leave")
            if not steps:
                raise CommandFailed(
                    f"${format_usd(standing.leaving)} is leaving and can be taken out from "
                    f"{_when(standing.leaves_at)}"
                )
            key = load_key(home, "operator", passphrase(passphrase_file))
            await confirm(operator, key, steps, yes)
            # An agent that is stuck does not keep its owner in the market: it goes on either way.
            await drained(home, config.drain_seconds)
            done = await send(operator, key, steps)
            after = await operator.standing()
            return {
                "staked_usd": format_usd(after.staked),
                "leaving_usd": format_usd(after.leaving),
                "payable_at": _when(after.leaves_at) if after.leaving else None,
                "transactions": done,
            }

    show(asyncio.run(act()), as_json, with_transactions)


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
