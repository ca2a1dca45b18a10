"""Kill the coordinator again and again under load, and look whether anybody's money was touched.

    scripts/bench crash --kills 1000
    scripts/bench crash --quick

`tallystick up` runs as a process of its own on books, agents and a chain that outlive it. Clients ask and
read all the time; at random instants, also while it starts, it gets a SIGKILL and is started again. It is
forked from a process that has its modules loaded: importing them is half of a life, and does nothing.

After every restart each charge that a client was told is in the books once, nothing is held for jobs that
died, and the books add up. At the end everything is settled, and `tallystick books verify` holds books,
receipts and chain together.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from marketplace.domain.errors import Unavailable
from marketplace.storage.database import Database
from scripts.benches.crash.checks import Books, look
from scripts.benches.crash.coordinators import Coordinators, DoesNotServe, coordinators
from scripts.benches.crash.load import Crowd, Record, open_consumers, until
from scripts.benches.crash.stage import Stage, a_stage, plain_environment
from scripts.benches.report import Figure, Report, spread

TALLYSTICK = str(Path(sys.executable).with_name("tallystick"))
LONGEST_LIFE = 4.0
"""Seconds between being ready and the kill, at most."""


class CrashFailed(Exception):
    """The coordinator did not come back, or the bench could not go on."""


@dataclass
class Tally:
    """What happened."""

    starts: list[float] = field(default_factory=list)
    killed_while_starting: int = 0
    epochs: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="20 kills")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=None, help="of the instants")
    parser.add_argument("--folder", type=Path, default=None, help="keep everything there")


def measure(options: argparse.Namespace) -> Report:
    """Kill and count."""
    kills = 20 if options.quick else options.kills
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tallystick-crash-"))
    began = time.monotonic()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    record, tally, told = asyncio.run(_run(folder, kills, options.clients, random.Random(seed)))
    if options.folder is None and not tally.problems:
        shutil.rmtree(folder)
    print(f"Logs and books are in {folder}" if tally.problems else f"seed {seed}")
    return _report(kills, seed, record, tally, told, time.monotonic() - began)


async def _run(
    folder: Path, kills: int, clients: int, chance: random.Random
) -> tuple[Record, Tally, dict[str, Any]]:
    record, tally = Record(), Tally()
    async with a_stage(folder) as stage, coordinators(stage) as made:
        await _start(made, tally)
        consumers = await open_consumers(stage, wallets=3, on_credit=3)
        await stage.mine_every(1)
        crowd = Crowd(stage, consumers, record, clients=clients)
        async with crowd.asking():
            for number in range(kills):
                await _kill(stage, made, chance, tally)
                await _check(stage, record, tally)
                if number % 10 == 9:
                    _say(number + 1, kills, record, tally)
        async with stage.agents():
            if not await until(lambda: _settled(stage), 180):
                tally.problems.append("not everything was settled within three minutes")
        told = await _verify(stage)
        await made.end(signal.SIGTERM)
    return record, tally, told


async def _start(made: Coordinators, tally: Tally) -> None:
    """Start a coordinator and return when it serves. Raises CrashFailed."""
    began = time.monotonic()
    try:
        await made.start()
    except DoesNotServe as error:
        raise CrashFailed(f"the coordinator does not start: {error}") from error
    if (status := await made.ended(0)) is not None:
        raise CrashFailed(f"the coordinator ended with {status} when it was started")
    tally.starts.append(time.monotonic() - began)


async def _kill(stage: Stage, made: Coordinators, chance: random.Random, tally: Tally) -> None:
    """Let the coordinator serve for a while, kill it, start it again; now and then kill that start too."""
    async with stage.agents():
        await asyncio.sleep(chance.uniform(0, LONGEST_LIFE))
        await _end(made)
    if chance.random() < 0.2:
        await made.begin()
        await asyncio.sleep(chance.uniform(0, tally.starts[-1]))
        await _end(made)
        tally.killed_while_starting += 1
    await _start(made, tally)


async def _end(made: Coordinators) -> None:
    if (status := await made.ended(0)) is not None:
        raise CrashFailed(f"the coordinator ended by itself with {status}")
    await made.end(signal.SIGKILL)


async def _check(stage: Stage, record: Record, tally: Tally) -> None:
    """Look into the books beside the coordinator that has just come back."""
    begun = int((time.time() - tally.starts[-1] - 0.2) * 1000)
    seen = await _look(stage, record, begun)
    tally.problems += seen.problems
    tally.epochs.append(seen.closed_epochs)


async def _look(stage: Stage, record: Record, begun: int) -> Books:
    # Only what was told before the snapshot must be in it.
    told = list(record.charges)
    async with _books(stage) as books:
        return await books.read(lambda session: look(session, told, begun))


@contextlib.asynccontextmanager
async def _books(stage: Stage) -> AsyncIterator[Database]:
    for _ in range(10):
        try:
            database = await Database.open(stage.books_url)
            break
        except Unavailable:
            await asyncio.sleep(0.5)
    else:
        raise CrashFailed("the books cannot be opened")
    try:
        yield database
    finally:
        await database.close()


async def _settled(stage: Stage) -> bool:
    await asyncio.sleep(0.5)
    async with _books(stage) as books:
        return (await books.read(lambda session: look(session, (), 0))).is_settled


async def _verify(stage: Stage) -> dict[str, Any]:
    """Return what `tallystick books verify` says."""
    verifying = await asyncio.create_subprocess_exec(
        *(TALLYSTICK, "books", "verify", "--json", "--data-dir", str(stage.data_dir)),
        env=plain_environment(**stage.environment),
        stdout=asyncio.subprocess.PIPE,
        cwd=stage.folder,
    )
    said, _ = await verifying.communicate()
    told: dict[str, Any] = json.loads(said)
    return told


def _say(done: int, kills: int, record: Record, tally: Tally) -> None:
    print(
        f"{done} of {kills} kills, {len(record.charges)} charges told, {tally.epochs[-1]} epochs closed, "
        f"{len(tally.problems)} problems",
        flush=True,
    )


def _report(
    kills: int, seed: int, record: Record, tally: Tally, told: dict[str, Any], seconds: float
) -> Report:
    stood = sum(later <= earlier for earlier, later in zip(tally.epochs, tally.epochs[10:], strict=False))
    figures = [
        Figure("kills while serving", str(kills)),
        Figure("kills while starting", str(tally.killed_while_starting)),
        Figure("charges that clients were told", str(len(record.charges))),
        Figure("requests cut off", str(record.cut_off)),
        Figure("epochs closed", str(tally.epochs[-1] if tally.epochs else 0)),
        Figure("ten kills without an epoch", str(stood), "0", stood == 0),
        Figure("problems after restarts", str(len(tally.problems)), "0", not tally.problems),
        Figure("books verify: findings", str(len(told["findings"])), "0", told["held"]),
        Figure("seconds from start to ready", spread(tally.starts)),
    ]
    data = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "refused": record.refused,
        "problems": tally.problems[:100],
        "verify": told,
    }
    return Report("The coordinator killed under load", figures, data)
