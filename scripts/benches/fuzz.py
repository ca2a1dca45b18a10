"""Damaged samples of everything that strangers send, through every parser: what else comes out than refusals?

Frames of both directions, receipts, epoch files, rows, proofs, sign-in messages, amounts, manifests,
tokenizers, chats, answers, configuration, keystores, the agent's socket, and HTTP bodies through the real
application. A case counts as a finding when anything but the documented refusal is raised, when what was
taken does not encode to the same, or when it takes more than a second of processor time. A finding's seed
makes its sample again:

    scripts/bench fuzz --again "1/frames/4711"
"""

import argparse
import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict

from scripts.benches.report import Figure, Report
from tests.fuzz.bodies import an_open_door
from tests.fuzz.driver import Outcome, Parser, run, run_case, shares
from tests.fuzz.parsers import PARSERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="parsers whose name has this in it")
    parser.add_argument("--again", default="", help="the seed of one finding")
    parser.add_argument("--no-http", action="store_true", help="without the application, which needs a chain")
    parser.add_argument("--quick", action="store_true", help="20,000 cases")


@contextlib.contextmanager
def _parsers(options: argparse.Namespace) -> Iterator[list[Parser]]:
    wanted = options.again.split("/")[1] if options.again else options.only
    with contextlib.ExitStack() as stack:
        parsers = list(PARSERS)
        if not options.no_http:
            door = stack.enter_context(an_open_door())
            stack.callback(door.check_money)
            parsers += door.parsers()
        yield [parser for parser in parsers if wanted in parser.name]


def measure(options: argparse.Namespace) -> Report:
    """Return the measurements. Raises AssertionError if the books do not add up after the requests."""
    if options.quick:
        options.cases = 20_000
    outcomes: dict[str, Outcome] = {}
    began = time.monotonic()
    with _parsers(options) as parsers:
        if options.again:
            outcomes[parsers[0].name] = Outcome()
            run_case(parsers[0], options.again, outcomes[parsers[0].name])
        else:
            for parser, cases in shares(parsers, options.cases):
                outcomes[parser.name] = run(parser, options.seed, cases)
                _progress(parser, outcomes[parser.name], time.monotonic() - began)
    data = {name: asdict(outcome) | {"kinds": None} for name, outcome in outcomes.items()}
    cases = sum(outcome.cases for outcome in outcomes.values())
    return Report(f"{cases:,} cases, seed {options.seed}", figures(outcomes), data, ("msgspec", "starlette"))


def _progress(parser: Parser, outcome: Outcome, seconds: float) -> None:
    print(
        f"{seconds:6.0f} s  {parser.name}: {outcome.cases:,} cases, {len(outcome.kinds)} findings", flush=True
    )
    for finding in outcome.findings:
        print(
            f"          {finding.seed}  {finding.what}\n          {finding.where}  {finding.sample}",
            flush=True,
        )


def figures(outcomes: dict[str, Outcome]) -> list[Figure]:
    """Return the rows of the table."""
    rows = []
    for name, outcome in outcomes.items():
        share = 100 * outcome.taken / max(1, outcome.cases)
        micro = 1e6 * outcome.cpu_seconds / max(1, outcome.cases)
        measured = f"{len(outcome.kinds)} in {outcome.cases:,}; {share:.0f} % taken, {micro:.0f} µs"
        rows.append(Figure(f"findings: {name}", measured, "0", not outcome.kinds))
    slowest = max(outcome.slowest for outcome in outcomes.values())
    rows.append(Figure("slowest case, cpu", f"{slowest * 1000:.0f} ms", "≤ 1000 ms", slowest <= 1))
    grown = max(outcome.growth_mb for outcome in outcomes.values())
    rows.append(Figure("growth of memory in one parser", f"{grown:.0f} MB", "≤ 300 MB", grown <= 300))
    return rows
