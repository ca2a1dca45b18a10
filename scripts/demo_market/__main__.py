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
from scripts.demo_market.options import arguments
from scripts.demo_market.processes import DemoFailed, Processes
from scripts.demo_market.report import say_what_to_try, show_result

console = Console(highlight=False)


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
