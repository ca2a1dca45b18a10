"""What every benchmark leaves: a table for people, and JSON with the machine and the versions."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One row: what was measured, its value as text with its unit, and what was aimed at, if anything."""

    what: str
    value: str
    aim: str = ""
    is_met: bool | None = None


@dataclass(frozen=True)
class Report:
    """The outcome of a benchmark.

    `figures` are the rows of the table; `data` is everything measured, runs and all, for the JSON file.
    """

    title: str
    figures: Sequence[Figure]
    data: dict[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return `median (least – most)`."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of interleaved pairs, so that what slows both cancels."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def show(report: Report, console: Console) -> None:
    """Print the table."""
    table = Table(title=report.title, title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("aim", justify="right")
    marks = {True: " ✓", False: " missed", None: ""}
    for figure in report.figures:
        table.add_row(figure.what, figure.value, figure.aim + marks[figure.is_met])
    console.print(table)


def write(report: Report, path: Path, command: Sequence[str]) -> None:
    """Write the figures with what is needed to understand them later."""
    record = {
        "title": report.title,
        "command": " ".join(command),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "packages": {name: metadata.version(name) for name in report.packages},
        "figures": [asdict(figure) for figure in report.figures],
        "data": report.data,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
    }
