"""Structured logs: one event a line, in words or as JSON, never with prompts, answers or keys."""

import logging
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

LOG_NAME: Final = "coordinator.log"
MAX_BYTES: Final = 50 * 1024 * 1024


class FileCopy:
    """A structlog processor that also writes each event as a JSON line to a file, for `tallystick logs`.

    A file over its limit is kept once, under `.1`.
    """

    def __init__(self, path: Path, most_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._most = most_bytes
        self._open()

    def __call__(self, _logger: Any, _name: str, event: Any) -> Any:
        """Write `event` and pass it on."""
        shown = {key: value for key, value in event.items() if key != "exc_info"}
        self._written += self._file.write(msgspec.json.encode(shown, enc_hook=str) + b"\n")
        if self._written > self._most:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._open()
        return event

    def close(self) -> None:
        """Close the file; nothing may be logged through it after that."""
        self._file.close()

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        self._written = self._file.tell()


def configure_logs(level: str, log_format: str, copy_to: Path | None = None) -> None:
    """Send structlog's and the libraries' events to stderr, from `level` on, as `console` or `json`.

    `copy_to` is a file that gets structlog's events as JSON lines too.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if log_format == "json" else _leave,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The other formatters show local variables: prompts and keys among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    least = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, *([FileCopy(copy_to)] if copy_to else []), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(least, logging.WARNING), stream=sys.stderr, force=True)
    # A job that takes longer than its pace is skipped and called again: nothing to warn about.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _leave(_logger: Any, _name: str, event: Any) -> Any:
    return event
