"""The coordinator as its operator starts it, with `echo` nodes: nothing is left out."""

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import psutil

from provider.config import load_config, save_config
from scripts.benches.gateway.machine import GATEWAY_CORE, LOAD_CORE, Crew, pin
from scripts.demo_market.processes import TALLYSTICK, command, free_port

SETTINGS: Final = {
    "TALLYSTICK_LOG_LEVEL": "warning",
    # The limit is looked at for every request, and never met.
    "TALLYSTICK_KEY_REQUESTS_PER_MINUTE": "100000000",
    "TALLYSTICK_KEY_BURST": "100000000",
    "TALLYSTICK_SIGNUP_CREDIT_USD": "400",
    "TALLYSTICK_SIGNUP_CREDIT_DAILY_USD": "1000",
    # What `--local` hurries along for those who watch.
    "TALLYSTICK_SETTLE_POLL_SECONDS": "5",
    "TALLYSTICK_MATURITY_LAG_SECONDS": "60",
}
EPOCH_SECONDS: Final = 3600
"""Receipts mature while it measures; an epoch closes after it. Settlement has a benchmark of its own."""
ONE_BY_ONE: Final = "echo-one-by-one"
"""The same engine, with a frame for each token, as engines that draw them have it."""
SLOTS: Final = 512
SETTLING_SECONDS: Final = 1.5
STAKE: Final = "100"
PASSPHRASE: Final = "of no worth"


@dataclass(frozen=True)
class Target:
    """A gateway that is up: where to ask, with what, and the process that answers."""

    name: str
    url: str
    headers: tuple[str, ...]
    model: str
    streamed_model: str
    process_id: int
    upstream_ids: tuple[int, ...]
    version: str = ""

    def body(self, text: str, *, max_tokens: int, stream: bool) -> str:
        """Return a chat completion request."""
        asked: dict[str, Any] = {
            "model": self.streamed_model if stream else self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": max_tokens,
        }
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(asked | (streamed if stream else {}))

    def argued(self, body: str) -> list[str]:
        """Return the load generator's options."""
        headers = [option for header in self.headers for option in ("--header", header)]
        return ["--url", self.url, "--body", body, *headers]


def start_ours(crew: Crew, folder: Path, *, nodes: int) -> Target:
    """Start chain, coordinator and nodes, and open an account."""
    ready = folder / "ready.json"
    port = free_port(8180)
    coordinator = crew.start(
        "coordinator",
        [
            *(TALLYSTICK, "up", "--local", "--data-dir", str(folder / "coordinator"), "--json", str(ready)),
            *("--port", str(port), "--rpc-port", str(free_port(8645))),
            *("--epoch-seconds", str(EPOCH_SECONDS)),
        ],
        core=GATEWAY_CORE,
        environment=SETTINGS,
    )
    crew.wait_for("the coordinator's start", lambda: ready.exists() or None)
    told = json.loads(ready.read_text())
    for child in psutil.Process(coordinator).children():
        pin(child.pid, LOAD_CORE)  # the chain is not the coordinator
    agents = tuple(_start_node(crew, folder, told, number) for number in range(nodes))
    crew.wait_for("the nodes' start", lambda: _served(told["base_url"], nodes))
    key = crew.wait_for("credit for an account", lambda: _account_with_credit(folder, told))
    return Target(
        name="Tallystick",
        url=told["base_url"] + "/chat/completions",
        headers=(f"authorization: Bearer {key}",),
        model="echo",
        streamed_model=ONE_BY_ONE,
        process_id=coordinator,
        upstream_ids=agents,
    )


def wait_for_nodes(crew: Crew, target: Target) -> None:
    """Return when the nodes of a coordinator that stood still are all there."""
    time.sleep(SETTLING_SECONDS)  # a link that both sides are about to give up still looks well
    base_url = target.url.removesuffix("/chat/completions")
    crew.wait_for("the nodes' return", lambda: _served(base_url, len(target.upstream_ids)))


def _account_with_credit(folder: Path, told: dict[str, Any]) -> str | None:
    """Return the key of a new account; None while the deposit behind its credit is not in the books."""
    place = {"TALLYSTICK_HOME": str(folder / "consumer"), "TALLYSTICK_URL": told["base_url"]}
    made = command(["account", "sign-up", f"{secrets.token_hex(4)}@example.org"], place)
    headers = {"authorization": f"Bearer {made['api_key']}"}
    said = httpx.get(f"{told['base_url']}/balance", headers=headers, trust_env=False).raise_for_status()
    return str(made["api_key"]) if int(said.json()["available_nano_usd"]) else None


def _start_node(crew: Crew, folder: Path, told: dict[str, Any], number: int) -> int:
    home, secret = folder / f"node-{number}", folder / "passphrase"
    secret.write_text(PASSPHRASE)
    common = ["--home", str(home), "--passphrase-file", str(secret)]
    made = command(
        [
            *("provider", "init", *common, "--coordinator", told["base_url"]),
            *("--engine", "echo", "--model", "echo", "--slots", str(SLOTS)),
        ]
    )
    config = load_config(home)
    config.models.append(
        msgspec.structs.replace(config.models[0], name=ONE_BY_ONE, options={"tokens_per_event": 1})
    )
    save_config(home, config)
    command(
        ["account", "faucet", "--address", made["operator"], "--amount", STAKE],
        {"TALLYSTICK_URL": told["base_url"]},
    )
    command(["provider", "register", *common, "--stake", STAKE, "--yes"])
    return crew.start(f"node-{number}", [TALLYSTICK, "provider", "run", *common], core=LOAD_CORE)


def _served(base_url: str, nodes: int) -> bool | None:
    listed = httpx.get(f"{base_url}/nodes", trust_env=False).raise_for_status().json()["data"]
    return True if sum(1 for node in listed if node["models"]) >= nodes else None
