"""Starts a coordinator with a local chain and some providers, and opens a consumer with a wallet."""

import argparse
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from provider.config import FILE_NAME as CONFIG_NAME
from provider.config import load_config, save_config
from scripts.demo_market.processes import Processes, command, free_port

CONSUMER_DEPOSIT = "5.00"
CONSUMER_RIGHT = "1.00"
PROVIDER_STAKE = "100"
CHAIN_PORT = 8545
MATURITY_SECONDS = "2"


@dataclass(slots=True)
class Market:
    """A market that is up, and the one consumer of the demo."""

    base_url: str
    api_key: str
    user_id: str
    email: str
    rpc_url: str
    contracts: dict[str, str]
    providers: list[dict[str, str]]
    model: str
    consumer: str
    consumer_home: str
    passphrase: str
    deposit: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return asdict(self)

    def environment(self) -> dict[str, str]:
        """Return the variables with which `tallystick account …` acts as the demo's consumer."""
        return {
            "TALLYSTICK_HOME": self.consumer_home,
            "TALLYSTICK_PASSPHRASE": self.passphrase,
            "TALLYSTICK_URL": self.base_url,
        }


@dataclass(frozen=True, slots=True)
class Consumer:
    """The demo's consumer: a wallet with a deposit, and an account with a key."""

    address: str
    home: str
    passphrase: str
    account_id: str
    api_key: str
    deposit: dict[str, Any]


def start_market(
    processes: Processes, options: argparse.Namespace, directory: Path, console: Console
) -> Market:
    """Start all parts and return the market once a consumer with money can ask its providers."""
    ready = start_coordinator(processes, options, directory, console)
    secret_of(directory, "providers")

    def start(number: int) -> dict[str, str]:
        return start_provider(processes, options, directory, ready, number)

    words = "Providers and a consumer (the first time the model is converted) …"
    # Everybody for themselves, as on any market; whoever wants the model first makes it ready for all.
    with console.status(words), ThreadPoolExecutor(options.providers + 1) as pool:
        opening = pool.submit(open_consumer, directory, ready)
        providers = list(pool.map(start, range(1, options.providers + 1)))
        consumer = opening.result()
    for number, provider in enumerate(providers, 1):
        console.print(
            f"[green]✓[/green] provider {number}: operator {provider['operator']} staked ${PROVIDER_STAKE}"
        )
    console.print(
        f"[green]✓[/green] consumer {consumer.address} deposited ${CONSUMER_DEPOSIT}, "
        f"authorized ${CONSUMER_RIGHT}",
        soft_wrap=True,
    )
    model = wait_for_model(processes, ready["base_url"], len(providers), console)
    return market_of(ready, providers, consumer, model)


def start_coordinator(
    processes: Processes, options: argparse.Namespace, directory: Path, console: Console
) -> dict[str, Any]:
    """Start chain, contracts and coordinator; return what the coordinator wrote when it was ready."""
    port, rpc_port = free_port(options.port), free_port(CHAIN_PORT)
    for wanted, given in ((options.port, port), (CHAIN_PORT, rpc_port)):
        if wanted != given:
            console.print(f"Port {wanted} is taken on this machine; {given} is used instead.")
    ready = directory / "ready.json"
    ready.unlink(missing_ok=True)
    processes.start(
        "coordinator",
        [
            *("up", "--local", "--data-dir", str(directory / "coordinator"), "--json", str(ready)),
            *("--port", str(port), "--rpc-port", str(rpc_port)),
            *("--epoch-seconds", str(options.epoch_seconds), "--maturity-seconds", MATURITY_SECONDS),
        ],
    )
    with console.status("Chain, contracts, coordinator …"):
        processes.wait_for("the coordinator's start", lambda: ready.exists() or None)
    told: dict[str, Any] = json.loads(ready.read_text())
    console.print(
        f"[green]✓[/green] coordinator at {told['base_url']}, chain {told['chain_id']} at {told['rpc_url']}",
        soft_wrap=True,
    )
    return told


def secret_of(directory: Path, whose: str) -> str:
    """Return the passphrase of the demo's providers or consumer, made at the first run."""
    file = directory / f"{whose}.passphrase"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(16))
    return file.read_text()


def start_provider(
    processes: Processes, options: argparse.Namespace, directory: Path, ready: dict[str, Any], number: int
) -> dict[str, str]:
    """Set up, stake and start one provider agent; return its addresses, home, passphrase file and process."""
    provider = {
        "home": str(directory / f"provider-{number}"),
        "passphrase_file": str(directory / "providers.passphrase"),
    }
    common = provider_options(provider)

    def run() -> int:
        return processes.start(f"provider-{number}", ["provider", "run", *common])

    def register() -> Any:
        return command(["provider", "register", *common, "--stake", PROVIDER_STAKE, "--yes"])

    if (Path(provider["home"]) / CONFIG_NAME).exists():
        # Staked in an earlier run, so it can load its model while that is looked up.
        point_at(Path(provider["home"]), ready)
        process, told = run(), register()
    else:
        init_provider(common, ready, options, number)
        told, process = register(), run()
    return provider | {"operator": told["operator"], "node": told["node"], "pid": str(process)}


def point_at(home: Path, ready: dict[str, Any]) -> None:
    """Tell a provider of an earlier run where the market is now: its ports may be others."""
    config = load_config(home)
    config.coordinator, config.rpc_url = ready["base_url"], ready["rpc_url"]
    save_config(home, config)


def provider_options(provider: dict[str, str]) -> list[str]:
    """Return the options with which `tallystick provider …` acts for one of the demo's providers."""
    return ["--home", provider["home"], "--passphrase-file", provider["passphrase_file"]]


def init_provider(common: list[str], ready: dict[str, Any], options: argparse.Namespace, number: int) -> None:
    """Make one provider's keys and give its operator test money."""
    told = command(
        [
            *("provider", "init", *common, "--coordinator", ready["base_url"], "--engine", "transformers"),
            *("--model", options.model, "--threads", "1", "--slots", "4", "--region", f"local-{number}"),
        ]
    )
    command(
        ["account", "faucet", "--address", told["operator"], "--amount", PROVIDER_STAKE],
        {"TALLYSTICK_URL": ready["base_url"]},
    )


def wait_for_model(processes: Processes, base_url: str, nodes: int, console: Console) -> str:
    """Return the id of the model once all nodes serve it."""

    def served() -> str | None:
        listed = httpx.get(f"{base_url}/nodes").raise_for_status().json()["data"]
        live = [node for node in listed if node["models"]]
        return str(live[0]["models"][0]["name"]) if len(live) >= nodes else None

    with console.status("Providers load the model …"):
        model: str = processes.wait_for("the providers' start", served, 280)
    console.print(f"[green]✓[/green] {nodes} providers serve {model}")
    return model


def open_consumer(directory: Path, ready: dict[str, Any]) -> Consumer:
    """Open an account by wallet, deposit with a permit, authorize a dollar and make an API key."""
    home = directory / "consumer"
    passphrase = secret_of(directory, "consumer")
    who = {
        "TALLYSTICK_HOME": str(home),
        "TALLYSTICK_PASSPHRASE": passphrase,
        "TALLYSTICK_URL": ready["base_url"],
    }
    if not (home / "wallet.json").exists():
        command(["account", "create-wallet"], who)
    wallet = command(["account", "wallet"], who)["address"]
    command(["account", "faucet", "--address", wallet, "--amount", CONSUMER_DEPOSIT], who)
    deposit = command(["account", "deposit", CONSUMER_DEPOSIT, "--authorize", CONSUMER_RIGHT, "--yes"], who)
    signed_in = command(["account", "sign-in", "--key-name", "demo"], who)
    return Consumer(wallet, str(home), passphrase, signed_in["account_id"], signed_in["api_key"], deposit)


def market_of(
    ready: dict[str, Any], providers: list[dict[str, str]], consumer: Consumer, model: str
) -> Market:
    """Return the market that is up."""
    return Market(
        base_url=ready["base_url"],
        api_key=consumer.api_key,
        user_id=consumer.account_id,
        email="",
        rpc_url=ready["rpc_url"],
        contracts=ready["contracts"],
        providers=providers,
        model=model,
        consumer=consumer.address,
        consumer_home=consumer.home,
        passphrase=consumer.passphrase,
        deposit=consumer.deposit,
    )
