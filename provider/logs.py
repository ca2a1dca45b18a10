"""The agent's log: one JSON object a line in its home, and the same in words on the terminal."""

import json
import logging
import time
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import structlog

LOG_NAME: Final = "agent.log"
MAX_BYTES: Final = 20 * 1024 * 1024


def log_to(path: Path) -> None:
    """Send structlog's events to `path` (rotated, one older file kept) and to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    file = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1)
    file.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    terminal = logging.StreamHandler()
    terminal.setFormatter(_formatter(structlog.dev.ConsoleRenderer(colors=terminal.stream.isatty())))
    root = logging.getLogger()
    root.handlers = [file, terminal]
    root.setLevel(logging.INFO)


def read_log(path: Path, lines: int, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Give the last `lines` entries and, with `follow`, what is added, also after the file was rotated."""
    if not path.exists():
        return
    with path.open() as file:
        for line in file.read().splitlines()[-lines:]:
            yield _entry(line)
        position = file.tell()
    while follow:
        time.sleep(0.3)
        if path.stat().st_size < position:
            position = 0
        with path.open() as file:
            file.seek(position)
            while (line := file.readline()).endswith("\n"):
                position = file.tell()
                yield _entry(line)


def _formatter(renderer: Any) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
    )


def _entry(line: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"event": line.rstrip()}
    return entry
