"""`doctor`: looks at everything that must be right before the first paid job, and says what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import typer

from provider.commands.describing import described
from provider.commands.options import FORESEEN, HOME_DEFAULT, Home, PassphraseFile, passphrase
from provider.config import ProviderConfig, load_config
from provider.engines.base import EngineError
from provider.hardware import look
from provider.keystore import KeyUnavailable, load_secret
from provider.trust import trusted
from provider.wallet import NoChain, Operator, Standing, operator_of
from tallystick.commands.checks import Check, document, table
from tallystick.commands.console import AsJson, foreseen, show
from tallystick.evm import EvmError, Wallet
from tallystick.models.manifest import canonical_json, model_id
from tallystick.protocol.ids import ModelId, to_hex
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import format_usd

app = typer.Typer()


@app.command("doctor")
@foreseen(*FORESEEN)
def doctor(
    home: Home = HOME_DEFAULT, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """Check hardware, model, coordinator, chain, gas money, stake and node; simulate what is left to send.

    Nothing is sent and nothing is paid. Exit code 0 if the agent can run.

    Example: tallystick provider doctor
    """
    config = load_config(home)
    told = document(asyncio.run(_examine(home, config, passphrase(passphrase_file))))
    show(told, as_json, table)
    if not told["held"]:
        raise typer.Exit(1)


async def _examine(home: Path, config: ProviderConfig, words: str) -> list[Check]:
    hardware = look()
    findings = [
        Check("hardware", True, hardware.line()),
        await _look("coordinator", lambda: _coordinator(config), "check the address, and that it runs"),
    ]
    models: list[ModelId] = []
    for terms in config.models:
        findings.append(
            await _look(f"model {terms.model}", partial(_model, terms, models), "see the message")
        )
    findings += await _chain(home, config, words, models)
    return findings


async def _look(what: str, find: Callable[[], Awaitable[str]], advice: str) -> Check:
    try:
        return Check(what, True, await find())
    except httpx.HTTPError as error:
        # The further lines of what httpx says are links to its own help.
        return Check(what, False, str(error).split("\n")[0], advice)
    except (EngineError, KeyUnavailable, NoChain, EvmError, ValueError) as error:
        return Check(what, False, str(error), advice)


async def _coordinator(config: ProviderConfig) -> str:
    async with httpx.AsyncClient(timeout=15, verify=trusted(config.ca_file)) as http:
        told = (await http.get(f"{config.coordinator.rstrip('/')}/market")).raise_for_status().json()
    place = (int(told["chain_id"]), told["contracts"]["ledger"].lower())
    if place != (config.chain_id, config.ledger):
        raise ValueError(f"it is on {place}, the configuration says {(config.chain_id, config.ledger)}")
    if told["fee_bps"] > config.max_fee_bps:
        raise ValueError(
            f"the market's share is {told['fee_bps']} basis points, you accept {config.max_fee_bps}"
        )
    return f"{config.coordinator}, market's share {told['fee_bps'] / 100:g} %"


async def _model(terms: Any, models: list[ModelId]) -> str:
    manifest = await described(terms)
    models.append(model_id(canonical_json(manifest)))
    return f"{manifest.name} ({manifest.numerics}), id {to_hex(models[-1])[:18]}…"


async def _chain(home: Path, config: ProviderConfig, words: str, models: list[ModelId]) -> list[Check]:
    try:
        async with operator_of(config) as operator:
            standing = await operator.standing()
            return [
                Check("chain", True, f"chain {config.chain_id} at {config.rpc_url}"),
                Check(
                    "gas money",
                    standing.gas_wei > 0,
                    f"{standing.gas_wei / 10**18:.6f} of the chain's coin",
                    f"send some to {config.operator}; on a local market: tallystick account faucet --address "
                    f"{config.operator}",
                ),
                Check(
                    "stake",
                    standing.eligible,
                    f"${format_usd(standing.staked)} staked, the least is ${format_usd(standing.minimum)}",
                    _how_to_stake(config, standing),
                ),
                Check(
                    "node",
                    standing.node_status == "active" and standing.node_operator == config.operator,
                    f"{config.node} is {standing.node_status}",
                    "tallystick provider register",
                ),
                await _look(
                    "what is left",
                    lambda: _simulate(home, operator, words, models),
                    "tallystick provider register",
                ),
            ]
    except (NoChain, EvmError) as error:
        return [Check("chain", False, str(error), "set rpc_url in the configuration to a node of the chain")]


def _how_to_stake(config: ProviderConfig, standing: Standing) -> str:
    if standing.staked + standing.dollars >= standing.minimum:
        return "tallystick provider register --stake 100"
    return (
        f"send dollars to {config.operator}; on a local market: tallystick account faucet --address "
        f"{config.operator}; then: tallystick provider register --stake 100"
    )


async def _simulate(home: Path, operator: Operator, words: str, models: list[ModelId]) -> str:
    """Return what `register` would send; the first transaction is simulated, the others depend on it."""
    secret = load_secret(home, "operator", words)
    node_key = SigningKey(load_secret(home, "node", words))
    standing = await operator.standing()
    steps = await operator.register_steps(secret, node_key, max(standing.staked, standing.minimum), models)
    if not steps:
        return "nothing: staked, added, declared"
    cost = await Wallet(operator.connection, SigningKey(secret)).cost(steps[0].call)
    words_ = ", ".join(step.what for step in steps)
    return f"{words_}; the first was simulated and takes at most {cost.gas} gas"
