"""An hour of mixed load on a real coordinator with echo agents: does anything grow?

Processes of their own: chain, coordinator, two agents. The clients ask, stream, leave in the middle, read
slowly, send garbage, look around and open accounts. Every few seconds the coordinator's memory, file handles,
connections and processor time are read; figures are slopes over the time after the warm-up, and the books are
added up at the end.

The warm-up is busier than the hour: the books' page cache has to be full by then (32 MB at most, see
storage/engines.py), or an hour of its filling looks like a leak.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from scripts.benches.report import Figure, Report
from scripts.benches.soak_load import Tally, run_load
from scripts.demo_market.processes import DemoFailed, Processes, command, free_port

SAMPLE_SECONDS = 5.0
WARM_UP_RATE = 4.0
"""Times the rate of the hour."""


@dataclass(frozen=True)
class Sample:
    """The coordinator at one time (`at`, in seconds since the warm-up ended)."""

    at: float
    rss_mb: float
    handles: int
    connections: int
    cpu_seconds: float


@dataclass(frozen=True)
class Minute:
    """The plain answers of one minute (a tenth of the time, if it is shorter); milliseconds."""

    at: float
    answers: int
    p50: float
    p99: float


def slope_per_hour(at: Sequence[float], values: Sequence[float]) -> float:
    """Return the median slope between all pairs (Theil and Sen), which a few outliers do not move."""
    slopes = [
        (values[later] - values[earlier]) / (at[later] - at[earlier]) * 3600
        for earlier in range(len(at))
        for later in range(earlier + 1, len(at))
    ]
    return statistics.median(slopes) if slopes else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Market:
    """The processes, and what is needed to talk to them."""

    def __init__(self, folder: Path, agents: int) -> None:
        self.folder = folder
        self.processes = Processes(folder / "logs")
        self.processes.directory.mkdir(parents=True)
        self._agents = agents
        self.base_url = ""
        self.coordinator = psutil.Process()

    def start(self) -> None:
        """Start everything and wait until the model is served. Raises DemoFailed."""
        ready = self.folder / "ready.json"
        places = ("--data-dir", str(self.folder / "coordinator"), "--json", str(ready))
        ports = ("--port", str(free_port(8180)), "--rpc-port", str(free_port(8645)))
        pid = self.processes.start("coordinator", ["up", "--local", *places, *ports])
        self.processes.wait_for("the coordinator's start", lambda: ready.exists() or None)
        self.base_url = json.loads(ready.read_text())["base_url"]
        self.coordinator = psutil.Process(pid)
        secret = self.folder / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(16))
        for number in range(self._agents):
            self._start_agent(number, secret)
        self.processes.wait_for("the agents' start", self._all_serve)

    def _start_agent(self, number: int, secret: Path) -> None:
        common = ["--home", str(self.folder / f"agent-{number}"), "--passphrase-file", str(secret)]
        echo = ("--engine", "echo", "--slots", "64")
        told = command(["provider", "init", *common, "--coordinator", self.base_url, *echo])
        money = ["account", "faucet", "--address", told["operator"], "--amount", "100"]
        command(money, {"TALLYSTICK_URL": self.base_url})
        command(["provider", "register", *common, "--stake", "100", "--yes"])
        self.processes.start(f"agent-{number}", ["provider", "run", *common])

    def _all_serve(self) -> bool | None:
        listed = asyncio.run(self._get("nodes"))["data"]
        return len([node for node in listed if node["models"] and node["eligible"]]) >= self._agents or None

    async def _get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as http, http.get(f"{self.base_url}/{path}") as answer:
            return await answer.json()

    async def open_accounts(self, count: int) -> list[str]:
        """Return the keys of new accounts."""
        keys = []
        async with aiohttp.ClientSession() as http:
            for number in range(count):
                email = {"email": f"visitor-{number}@example.com"}
                async with http.post(f"{self.base_url}/accounts", json=email) as answer:
                    keys.append((await answer.json())["api_key"])
        return keys

    def sample(self, at: float) -> Sample:
        """Return the coordinator as it is now."""
        process = self.coordinator
        with process.oneshot():
            times = process.cpu_times()
            return Sample(
                at=round(at, 1),
                rss_mb=round(process.memory_info().rss / 2**20, 2),
                handles=process.num_fds(),
                connections=len(process.net_connections("tcp")),
                cpu_seconds=round(times.user + times.system, 2),
            )

    def verify_books(self) -> dict[str, Any]:
        """Return what the books' own audit finds; an hour's figures are not lost over its failure."""
        try:
            told: dict[str, Any] = command(
                ["books", "verify", "--data-dir", str(self.folder / "coordinator")]
            )
        except DemoFailed as error:
            return {"held": False, "receipts": 0, "error": str(error)}
        return told


@dataclass
class Record:
    """Everything measured; `warming` is how many visits the warm-up had."""

    samples: list[Sample]
    minutes: list[Minute]
    tally: Tally
    warming: int
    books: dict[str, Any]


class Watch:
    """Loads the market and notes what it sees."""

    def __init__(self, market: Market, keys: list[str], options: argparse.Namespace) -> None:
        self._market, self._keys, self._options = market, keys, options
        self._began = time.monotonic() + options.warm_up * 60
        self.tally = Tally()
        self.samples: list[Sample] = []
        self.minutes: list[Minute] = []

    async def go(self) -> Record:
        """Warm up, load the market for the time asked, and return what was seen."""
        options = self._options
        window = min(60.0, options.minutes * 6)
        await self._load(0.0, options.rate * WARM_UP_RATE, options.seed, window)
        warming = sum(self.tally.outcomes.values())
        await self._load(options.minutes * 60, options.rate, options.seed + 1, window)
        # What the last visitors left behind ends by itself; then nothing may be held.
        await asyncio.sleep(options.settle)
        self.samples.append(self._market.sample(self._at()))
        return Record(self.samples, self.minutes, self.tally, warming, self._market.verify_books())

    def _at(self) -> float:
        return time.monotonic() - self._began

    async def _load(self, until: float, rate: float, seed: int, window: float) -> None:
        load = asyncio.create_task(run_load(self._market.base_url, self._keys, rate, seed, self.tally))
        next_minute = self._at() + window
        while self._at() < until:
            self._market.processes.check()
            if load.done():
                load.result()
            self.samples.append(self._market.sample(self._at()))
            if self._at() >= next_minute and (seconds := self.tally.take_seconds()):
                next_minute += window
                p50, p99 = (round(percentile(seconds, share) * 1000, 2) for share in (0.5, 0.99))
                self.minutes.append(Minute(round(self._at(), 1), len(seconds), p50, p99))
                _progress(self.samples[-1], self.minutes[-1])
            await asyncio.sleep(min(SAMPLE_SECONDS, window / 2))
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def watch(market: Market, options: argparse.Namespace) -> Record:
    """Open the accounts, and load the market."""
    return await Watch(market, await market.open_accounts(options.accounts), options).go()


def _progress(sample: Sample, minute: Minute) -> None:
    print(
        f"{minute.at:6.0f} s  {sample.rss_mb:7.1f} MB  {sample.handles} handles  "
        f"{sample.connections} connections  p50 {minute.p50} ms  p99 {minute.p99} ms",
        flush=True,
    )


def figures(record: Record) -> list[Figure]:
    """Return the rows of the table."""
    samples = [one for one in record.samples[:-1] if one.at >= 0]
    minutes = [one for one in record.minutes if one.at >= 0]
    rows = [_trend("memory, MB", samples, "rss_mb", 0.05), _trend("file handles", samples, "handles", 0.02)]
    rows.append(_trend("connections", samples, "connections", 0.02))
    rows += [_trend("p50, ms", minutes, "p50", 0.10), _trend("p99, ms", minutes, "p99", 0.10)]
    last, first = record.samples[-1], samples[0]
    visits = sum(record.tally.outcomes.values())
    failed = sum(count for kind, count in record.tally.outcomes.items() if kind.endswith(": failed"))
    rows.append(Figure("visits", f"{visits}"))
    rows.append(Figure("visits that did not go as they should", f"{failed}", "0", failed == 0))
    milliseconds = (last.cpu_seconds - first.cpu_seconds) / max(visits - record.warming, 1) * 1000
    rows.append(Figure("coordinator's processor time a visit, settlement and all", f"{milliseconds:.2f} ms"))
    idle, loaded = last.handles, statistics.median(one.handles for one in samples)
    rows.append(Figure("file handles under load, and when all have left", f"{loaded:.0f}, {idle}"))
    held = bool(record.books["held"])
    rows.append(
        Figure(f"books of {record.books['receipts']} receipts add up", "yes" if held else "no", "yes", held)
    )
    return rows


def _trend(what: str, rows: Sequence[Any], name: str, allowed: float) -> Figure:
    """Return the slope of one number; flat is a change of at most `allowed` of its median in an hour."""
    values = [float(getattr(row, name)) for row in rows]
    slope, middle = slope_per_hour([row.at for row in rows], values), statistics.median(values)
    most = allowed * middle
    measured = f"{middle:.1f}, {slope:+.2f} an hour"
    return Figure(what, measured, f"≤ {most:+.2f} an hour", slope <= most)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--minutes", type=float, default=60.0, help="after the warm-up")
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes at four times the rate")
    parser.add_argument("--rate", type=float, default=20.0, help="visits a second")
    parser.add_argument("--accounts", type=int, default=8)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--settle", type=float, default=15.0, help="seconds of quiet before the last look")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(".tallystick/bench/soak"))
    parser.add_argument("--quick", action="store_true", help="half a minute")


def measure(options: argparse.Namespace) -> Report:
    """Return the measurements."""
    if options.quick:
        options.minutes, options.warm_up, options.settle = 0.5, 0.1, 5.0
    folder = options.dir.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The limit is a key's, and these keys stand for many more visitors.
    os.environ["TALLYSTICK_KEY_REQUESTS_PER_MINUTE"] = "0"
    market = Market(folder, options.agents)
    with contextlib.ExitStack() as stack:
        stack.callback(market.processes.stop)
        market.start()
        record = asyncio.run(watch(market, options))
    data = {
        "samples": [asdict(one) for one in record.samples],
        "minutes": [asdict(one) for one in record.minutes],
        "outcomes": dict(record.tally.outcomes),
        "problems": dict(record.tally.problems.most_common(50)),
        "books": record.books,
    }
    title = f"{options.minutes:g} minutes at {options.rate:g} visits a second"
    return Report(title, figures(record), data, ("uvicorn", "starlette"))
