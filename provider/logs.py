"""The agent's log: one JSON object a line in its home, and the same in words on the terminal."""

import logging
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
    terminal.setFormatter(_formatter(_in_words(terminal.stream.isatty())))
    root = logging.getLogger()
    root.handlers = [file, terminal]
    root.setLevel(logging.INFO)
    for noisy in ("web3", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _in_words(colors: bool) -> Any:
    # The other traceback formatters show local variables: prompts and keys among them.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _formatter(renderer: Any) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
    )
