"""How long it takes to put an epoch together and to settle it, how much memory and gas, and how that grows.

    scripts/bench settlement --json docs/benchmarks/settlement.json --pictures docs/benchmarks
    scripts/bench settlement --quick

Real books full of receipts that nodes signed (made once, kept in .tallystick/bench), a real chain, the
coordinator's own services in a process of their own. The same accounts spend the same money at every size, in
more and more receipts. Half of the accounts authorize on the chain, the others' rows bring a consent.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any, Final

from scripts.benches.report import Figure, Report
from scripts.benches.settlement_books import Plan, filled_books
from scripts.benches.settlement_chain import BenchChain, bench_chain
from scripts.benches.settlement_pictures import draw

CACHE: Final = Path(".tallystick/bench")
SIZES: Final = (10_000, 100_000, 1_000_000)
QUICK_SIZES: Final = (10_000, 30_000)
BUILD: Final = ("seal", "file")
BUILD_SECONDS: Final = 60
BUILD_MB: Final = 1_536
STALL_SECONDS: Final = 0.1

Found = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--quick", action="store_true", help="10,000 and 30,000 receipts of 1,000 accounts")
    parser.add_argument("--sizes", type=int, nargs="+", help="receipts of an epoch")
    parser.add_argument("--accounts", type=int, help="consumers among whom the receipts are")
    parser.add_argument("--pictures", type=Path, help="draw the curves into this folder")
    parser.add_argument("--gas-price", type=float, default=0.05, help="gwei, for the share of the money")
    parser.add_argument("--ether", type=float, default=3_000, help="dollars, for the share of the money")


def measure(options: argparse.Namespace) -> Report:
    """Return the measurements."""
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    accounts = options.accounts or (1_000 if options.quick else 10_000)
    runs = asyncio.run(_run(sorted(sizes), accounts))
    if options.pictures:
        _draw(options.pictures, runs)
    figures = [figure for run in runs for figure in _of_one(run)]
    figures += _growth(runs) + [_share(runs[-1], options.gas_price, options.ether)]
    return Report(
        f"Settling an epoch of {accounts} accounts",
        figures,
        {"accounts": accounts, "runs": runs},
        ("sqlalchemy", "web3", "safe-pysha3"),
    )


async def _run(sizes: list[int], accounts: int) -> list[Found]:
    CACHE.mkdir(parents=True, exist_ok=True)
    async with bench_chain() as chain:
        place = chain.deployment
        books = {
            size: filled_books(CACHE, Plan(size, accounts, place.ledger_domain, place.owner))
            for size in sizes
        }
        await chain.fund(accounts)
        runs = []
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="settlement-") as folder:
                runs.append(await _one(chain, books[size], Path(folder)))
            print(f"{size:,} receipts: done", json.dumps(runs[-1]["phases"]), file=sys.stderr)
            await chain.take_back()
        return runs


async def _one(chain: BenchChain, books: Path, folder: Path) -> Found:
    """Return the figures of one epoch."""
    shutil.copy(books, folder / "books.sqlite")
    chain.deployment.save(folder / "deployment.json")
    await chain.end_epoch()
    found = await _child("scripts.benches.settlement_child", folder, folder / "deployment.json")
    if found["findings"]:
        raise RuntimeError(f"books and chain differ: {found['findings'][:3]}")
    found["check"] = await _child("scripts.benches.settlement_check", Path(found.pop("file")))
    return found


async def _child(module: str, *arguments: Path) -> Found:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *(str(one) for one in arguments), stdout=PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}")
    told: Found = json.loads(output.decode().splitlines()[-1])
    return told


def _build(run: Found, what: str) -> float:
    return sum(float(run["phases"][phase][what]) for phase in BUILD)


def _of_one(run: Found) -> list[Figure]:
    """Return what one epoch took."""
    phases, size = run["phases"], f"{run['receipts']:,} receipts"
    memory = max(phases[phase]["memory_mb"] for phase in BUILD)
    stall = max(phases[phase]["loop_stall_most"] for phase in (*BUILD, "send"))
    write = max(phases[phase]["write_most"] for phase in (*BUILD, "send"))
    is_full = run["receipts"] >= SIZES[-1]
    return [
        Figure(
            f"{size}: built (rows, tree, file), wall / CPU",
            f"{_build(run, 'wall'):.1f} s / {_build(run, 'cpu'):.1f} s",
            f"≤ {BUILD_SECONDS} s" if is_full else "",
            _build(run, "wall") <= BUILD_SECONDS if is_full else None,
        ),
        Figure(
            f"{size}: most memory while it was built",
            f"{memory:.0f} MB",
            f"≤ {BUILD_MB} MB" if is_full else "",
            memory <= BUILD_MB if is_full else None,
        ),
        Figure(f"{size}: longest stall of the event loop", f"{stall * 1000:.0f} ms"),
        Figure(f"{size}: longest wait of a small write", f"{write * 1000:.0f} ms"),
        Figure(
            f"{size}: settled in {run['chunks']} transactions, wall / CPU",
            f"{phases['send']['wall']:.1f} s / {phases['send']['cpu']:.1f} s",
        ),
        Figure(f"{size}: gas", f"{run['gas']:,}"),
        Figure(
            f"{size}: first proof of a receipt / next one",
            f"{phases['first proof']['wall'] * 1000:.0f} ms / {phases['next proof']['wall'] * 1000:.1f} ms",
        ),
        Figure(
            f"{size}: file ({run['file_bytes'] / 1e6:.0f} MB) checked by a provider",
            f"{run['check']['cpu']:.1f} s CPU, {run['check']['memory_mb']:.0f} MB",
        ),
    ]


def _growth(runs: list[Found]) -> list[Figure]:
    """Return how time and gas grew from the smallest epoch to the largest."""
    first, last = runs[0], runs[-1]
    more = last["receipts"] / first["receipts"]
    time, gas = _build(last, "cpu") / _build(first, "cpu"), last["gas"] / first["gas"]
    return [
        Figure(f"CPU time to build, {more:.0f} × the receipts", f"{time:.1f} ×", "≤ linear", time <= more),
        Figure(f"gas, {more:.0f} × the receipts", f"{gas:.4f} ×", "1 ×", abs(gas - 1) < 0.005),
    ]


def _share(run: Found, gas_price: float, ether: float) -> Figure:
    dollars = run["gas"] * gas_price * 1e-9 * ether
    moved = run["moved"] / 1e9
    return Figure(
        f"gas, share of the ${moved:,.0f} moved, at {gas_price} gwei, ${ether:,.0f} an ether, rows from $1",
        f"{dollars / moved:.4%} (${dollars:,.2f})",
    )


def _draw(folder: Path, runs: list[Found]) -> None:
    def curve(name: str, title: str, up: str, values: list[float], *, linear: bool = False) -> None:
        points = [(float(run["receipts"]), value) for run, value in zip(runs, values, strict=True)]
        draw(folder / f"settlement-{name}.svg", title, "receipts in the epoch", up, points, linear=linear)

    curve(
        "time",
        "CPU seconds to put an epoch together (dashed: linear)",
        "seconds",
        [_build(run, "cpu") for run in runs],
        linear=True,
    )
    curve("gas", "Gas to settle an epoch, whatever its receipts", "gas", [float(run["gas"]) for run in runs])
    memory = [max(run["phases"][phase]["memory_mb"] for phase in BUILD) for run in runs]
    curve("memory", "Most memory while an epoch is put together", "megabytes", memory)
