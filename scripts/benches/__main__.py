"""`scripts/bench NAME`: measure one thing, print a table, write the figures."""

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

from scripts.benches.report import show, write

BENCHES = {
    "crash": "a thousand kills of a coordinator under load: each charge stays, none doubles, no hold is left",
    "engine": "tokens per second of the built-in engine, alone and in company",
    "settlement": "an epoch put together and settled: time, memory and gas, and how they grow with receipts",
    "gateway": "requests and tokens a second of one process on one core, beside LiteLLM and Portkey",
    "fuzz": "damaged samples of everything that strangers send, through every parser",
    "soak": "an hour of mixed load: memory, file handles, connections and latency stay flat",
    "start": "from command to answer: a coordinator with a million receipts, an agent with a warm cache",
}
"""Their modules here have the same names, and are imported only when they are asked for: some load torch."""


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """Return the command line, with the options of the chosen benchmark."""
    whole = argparse.ArgumentParser(prog="scripts/bench", description="Measure Tallystick.")
    commands = whole.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, about in BENCHES.items():
        one = commands.add_parser(name, help=about)
        if name != chosen:
            continue
        module = importlib.import_module(f"scripts.benches.{name}")
        one.description = module.__doc__
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        one.add_argument("--json", type=Path, help="write the figures, the machine and the versions here")
        module.add_arguments(one)
        one.set_defaults(measure=module.measure)
    return whole


def main() -> None:
    """Parse, measure, show. A target that is missed is a figure, not a failure."""
    options = parser(sys.argv[1] if len(sys.argv) > 1 else None).parse_args()
    report = options.measure(options)
    show(report, Console(highlight=False))
    if options.json:
        write(report, options.json, ["scripts/bench", *sys.argv[1:]])


if __name__ == "__main__":
    main()
