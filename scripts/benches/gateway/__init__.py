"""Requests and tokens a second of one coordinator on one core, beside LiteLLM's proxy and Portkey's gateway.

    scripts/bench gateway                            rounds of all three, then streaming
    scripts/bench gateway --quick                    one short round (a minute, once the others are installed)
    scripts/bench gateway --only ours --profile      where the coordinator's CPU time goes
    scripts/bench gateway --slow-readers --minutes 10    memory under 64 streams that are read slowly

Keys, limits, holds, captures, signed receipts and durable books are all on, against real agents with the
`echo` engine; the others pass the same requests to an echo server and keep nothing. The gateway has one core;
load, nodes and upstream share the other. While others are measured our processes stand still. The CPU time of
a request is that of the gateway and its helper processes. Everything is kept below .tallystick/bench.
"""

import argparse
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from scripts.benches.gateway import reading
from scripts.benches.gateway.machine import LOAD_CORE, Crew, cpu_seconds, module, pause, resume, run_json
from scripts.benches.gateway.others import start_litellm, start_portkey, start_upstream
from scripts.benches.gateway.ours import Target, start_ours, wait_for_nodes
from scripts.benches.gateway.profiling import profiled
from scripts.benches.report import Figure, Report, median_ratio, spread

QUESTION: Final = "What is a tally stick, and why was it split in two?"
LONG_TEXT: Final = "A tally stick was a receipt split in two. " * 12
"""About 500 tokens, since an echo node's are bytes."""
ANSWER_ROOM: Final = 64
NAMES: Final = ("ours", "litellm", "portkey")
STREAMING: Final = {"ours", "litellm"}
"""Portkey's gateway 1.15.2 on Node.js 20 answers streams of this upstream with 500 (immutable headers)."""


@dataclass
class Session:
    """What is up, and what was measured: runs by target and kind, in order."""

    crew: Crew
    targets: dict[str, Target] = field(default_factory=dict)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def run(self, name: str, kind: str, *, connections: int, seconds: float, stream: bool = False) -> None:
        """Measure one target; ours has work on a schedule, and stands still while others are measured."""
        ours = self.targets.get("ours")
        still = (ours.process_id, *ours.upstream_ids) if ours and name != "ours" else ()
        pause(*still)
        try:
            figures = measured(self.targets[name], connections=connections, seconds=seconds, stream=stream)
        finally:
            resume(*still)
        if ours and still:
            wait_for_nodes(self.crew, ours)
        self.runs.setdefault(name, {}).setdefault(kind, []).append(figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--only", choices=NAMES, action="append", help="measure only this one (may be repeated)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all gateways (default 3)")
    parser.add_argument("--seconds", type=float, default=10, help="length of one measurement (default 10)")
    parser.add_argument("--connections", type=int, default=16, help="connections at once (default 16)")
    parser.add_argument("--streams", type=int, default=64, help="streams at once (default 64)")
    parser.add_argument("--nodes", type=int, default=2, help="echo nodes (default 2)")
    parser.add_argument("--profile", action="store_true", help="say where our CPU time goes (py-spy)")
    parser.add_argument("--slow-readers", action="store_true", help="only watch memory under slow readers")
    parser.add_argument("--minutes", type=float, default=10, help="how long to watch (default 10)")
    parser.add_argument(
        "--dir", type=Path, default=Path(".tallystick/bench"), help="where everything is kept"
    )


def measure(options: argparse.Namespace) -> Report:
    """Start everything, measure, stop everything."""
    home = options.dir.resolve()
    folder = home / "gateway"
    shutil.rmtree(folder, ignore_errors=True)
    crew = Crew(folder / "logs")
    try:
        if options.slow_readers:
            target = start_ours(crew, folder, nodes=options.nodes)
            return reading.watch(target, streams=options.streams, minutes=options.minutes)
        names = options.only or NAMES
        session = Session(crew, _started(crew, home, folder, names, options.nodes))
        return _compared(session, home, options)
    finally:
        crew.stop()


def measured(target: Target, *, connections: int, seconds: float, stream: bool) -> dict[str, Any]:
    """Return the load generator's figures with the CPU time of a request, in microseconds."""
    body = target.body(
        LONG_TEXT if stream else QUESTION, max_tokens=len(LONG_TEXT) + ANSWER_ROOM, stream=stream
    )
    options = ["--connections", str(connections), "--seconds", str(seconds)]
    gateway, upstream = cpu_seconds(target.process_id), cpu_seconds(*target.upstream_ids)
    figures: dict[str, Any] = run_json(module("load", *target.argued(body), *options), core=LOAD_CORE)
    answers = max(1, figures["answers"])
    spent = cpu_seconds(target.process_id) - gateway
    figures["gateway_cpu_us"] = spent / answers * 1e6
    figures["gateway_cpu_share"] = spent / figures["seconds"]
    figures["upstream_cpu_us"] = (cpu_seconds(*target.upstream_ids) - upstream) / answers * 1e6
    return figures


def _started(crew: Crew, home: Path, folder: Path, names: Sequence[str], nodes: int) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    if "ours" in names:
        targets["ours"] = start_ours(crew, folder, nodes=nodes)
    if set(names) - {"ours"}:
        upstream = start_upstream(crew)
        starts: dict[str, Callable[..., Target]] = {"litellm": start_litellm, "portkey": start_portkey}
        targets |= {name: start(crew, home, upstream) for name, start in starts.items() if name in names}
    return targets


def _compared(session: Session, home: Path, options: argparse.Namespace) -> Report:
    seconds, rounds = (4.0, 1) if options.quick else (options.seconds, options.rounds)
    for name in session.targets:
        # Imports, caches and connections of the first requests are nobody's steady state.
        measured(session.targets[name], connections=options.connections, seconds=seconds / 3, stream=False)
        session.runs[name] = {}
    for _ in range(rounds):
        for name in session.targets:
            session.run(name, "busy", connections=options.connections, seconds=seconds)
        for name in session.targets:
            session.run(name, "alone", connections=1, seconds=seconds / 2)
        for name in STREAMING & session.targets.keys():
            session.run(name, "streams", connections=options.streams, seconds=seconds, stream=True)
    figures = _figures(session, options)
    data: dict[str, Any] = {"runs": session.runs, "versions": _versions(session)}
    if options.profile and "ours" in session.targets:
        lines = profiled(
            session.targets["ours"],
            home,
            lambda: session.run("ours", "profiled", connections=options.connections, seconds=seconds),
            seconds,
        )
        figures += [Figure(f"CPU: {what}", f"{share:.0%}") for what, share in lines]
        data["profile"] = lines
    return Report("Gateway: one process on one core", figures, data, ("uvicorn", "uvloop", "httptools"))


def _figures(session: Session, options: argparse.Namespace) -> list[Figure]:
    figures = []
    for name, target in session.targets.items():
        runs = session.runs[name]
        figures += [
            Figure(
                f"{target.name}: requests a second, {options.connections} connections",
                _spread(runs["busy"], "per_second", 0),
            ),
            Figure("… median / p99 ms", _pair(runs["busy"])),
            Figure("… CPU a request, µs", _spread(runs["busy"], "gateway_cpu_us", 0)),
            Figure("… median / p99 ms, one connection", _pair(runs["alone"])),
        ]
        if name in STREAMING:
            figures.append(_streaming(name, runs["streams"], options.streams))
    return figures + _against(session)


def _streaming(name: str, runs: list[dict[str, Any]], streams: int) -> Figure:
    rates = [one["tokens_per_second"] for one in runs]
    what = f"… tokens a second, {streams} streams"
    if name != "ours":
        return Figure(what, spread(rates, 0))
    return Figure(what, spread(rates, 0), "≥ 15,000", statistics.median(rates) >= 15_000)


def _against(session: Session) -> list[Figure]:
    """Return the ratios of interleaved runs, ours against each of the others."""
    figures = []
    ours = session.runs.get("ours")
    for name, aim in (("litellm", "≥ 5 ×, better 10"), ("portkey", "≥ 1 ×")):
        theirs = session.runs.get(name)
        if not ours or not theirs:
            continue
        least = 5 if name == "litellm" else 1
        called = session.targets[name].name
        rate = _ratio(ours, theirs, "per_second")
        figures.append(Figure(f"requests a second against {called}", f"{rate:.1f} ×", aim, rate >= least))
        cpu = _ratio(theirs, ours, "gateway_cpu_us")
        figures.append(Figure(f"requests a CPU second against {called}", f"{cpu:.1f} ×", aim, cpu >= least))
        for what in ("median_ms", "p99_ms"):
            share = _ratio(ours, theirs, what)
            name_of = what.removesuffix("_ms")
            figures.append(Figure(f"{name_of} against {called}", f"{share:.2f} ×", "< 1 ×", share < 1))
    return figures


def _ratio(
    ours: dict[str, list[dict[str, Any]]], theirs: dict[str, list[dict[str, Any]]], what: str
) -> float:
    return median_ratio([one[what] for one in ours["busy"]], [max(one[what], 1e-9) for one in theirs["busy"]])


def _spread(runs: list[dict[str, Any]], what: str, digits: int = 2) -> str:
    problems = sum(one["problems"] for one in runs)
    return spread([one[what] for one in runs], digits) + (f", {problems} failed" if problems else "")


def _pair(runs: list[dict[str, Any]]) -> str:
    median = statistics.median(one["median_ms"] for one in runs)
    return f"{median:.2f} / {statistics.median(one['p99_ms'] for one in runs):.2f}"


def _versions(session: Session) -> dict[str, str]:
    return {target.name: target.version for target in session.targets.values() if target.version}
