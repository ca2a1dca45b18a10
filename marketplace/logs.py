"""Structured logs: one event a line, in words or as JSON, never with prompts, answers or keys."""

import logging
import sys
from typing import Any

import structlog


def configure_logs(level: str, log_format: str) -> None:
    """Send structlog's and the libraries' events to stderr, from `level` on, as `console` or `json`."""
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
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(least, logging.WARNING), stream=sys.stderr, force=True)
    # A job that takes longer than its pace is skipped and called again: nothing to warn about.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _leave(_logger: Any, _name: str, event: Any) -> Any:
    return event
