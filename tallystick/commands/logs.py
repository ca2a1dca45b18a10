"""`tallystick logs`: what the coordinator and the agent on this machine wrote, in order of time."""

import heapq
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from tallystick.commands.console import AsJson, CommandFailed, console, foreseen

Entry = dict[str, Any]
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
COLORS: Final = {"warning": "yellow", "error": "red", "critical": "bold red"}
POLL_SECONDS: Final = 0.3


class LogFile:
    """A log with one JSON object a line, read from its end on; it may be rotated while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def last(self, lines: int) -> list[Entry]:
        """Return the last entries that are there now."""
        if not self.path.exists():
            return []
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._position = len(whole)
        return [_entry(line) for line in whole.splitlines()[-lines:]] if lines else []

    def fresh(self) -> list[Entry]:
        """Return what was added since the last look."""
        if not self.path.exists():
            return []
        if self.path.stat().st_size < self._position:
            self._position = 0
        with self.path.open("rb") as file:
            file.seek(self._position)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._position += len(whole)
        return [_entry(line) for line in whole.splitlines()]


def read_logs(paths: list[Path], lines: int, *, follow: bool) -> Iterator[Entry]:
    """Give the last `lines` entries of the files together, by time; with `follow` also what is added."""
    files = [LogFile(path) for path in paths]
    yield from list(heapq.merge(*(file.last(lines) for file in files), key=_when))[-lines:]
    while follow:
        time.sleep(POLL_SECONDS)
        yield from heapq.merge(*(file.fresh() for file in files), key=_when)


def show_entry(entry: Entry, *, as_json: bool) -> None:
    """Print an entry: as it is, or time, level, event and the rest in words."""
    if as_json:
        typer.echo(json.dumps(entry))
        return
    level = str(entry.get("level", ""))
    rest = " ".join(f"{k}={v}" for k, v in entry.items() if k not in ("timestamp", "level", "event"))
    color = COLORS.get(level, "default")
    words = escape(f"{level:7} {entry.get('event', '')} {rest}")
    console.print(f"[dim]{escape(str(entry.get('timestamp', ''))[:19])}[/dim] [{color}]{words}[/{color}]")


@foreseen(OSError)
def logs(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Log files; those of this machine's coordinator and agent by default."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines to begin with.")] = 50,
    level: Annotated[str, typer.Option(help="The least level: debug, info, warning, error.")] = "debug",
    as_json: AsJson = False,
) -> None:
    """Show what the coordinator and the agent of this machine wrote; no prompts, answers or keys are in it.

    Example: tallystick logs --follow --level warning
    """
    if level not in LEVELS:
        raise CommandFailed(f"there is no level {level!r}; the levels are {', '.join(LEVELS)}")
    paths = files or [path for path in default_files() if path.exists()]
    if missing := [path for path in paths if not path.exists()]:
        raise CommandFailed(f"there is no {missing[0]}")
    if not paths:
        looked = ", ".join(str(path) for path in default_files())
        raise CommandFailed(f"nothing on this machine has written a log yet; looked for {looked}")
    for entry in read_logs(paths, lines, follow=follow):
        if _rank(entry) >= LEVELS.index(level):
            show_entry(entry, as_json=as_json)


def default_files() -> list[Path]:
    """Return where the coordinator and the agent write their logs."""
    data = Path(os.environ.get("TALLYSTICK_DATA_DIR", ".tallystick"))
    agent = Path(os.environ.get("TALLYSTICK_PROVIDER_HOME", "~/.tallystick/provider")).expanduser()
    return [data / "coordinator.log", agent / "agent.log"]


def _entry(line: bytes) -> Entry:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"event": line.decode(errors="replace").rstrip()}


def _when(entry: Entry) -> str:
    return str(entry.get("timestamp", ""))


def _rank(entry: Entry) -> int:
    # A line without a level is somebody else's output, and may be what one is looking for.
    level = entry.get("level")
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)
