"""What a configured model is, with a line on stderr if finding out takes long."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from provider.config import ModelConfig
from provider.loading import describe
from tallystick.commands.console import errors
from tallystick.models.manifest import Manifest


async def described(terms: ModelConfig) -> Manifest:
    """Return what a configured model would be served as. Raises BadConfig and EngineError."""
    with _engines_heard():
        return await describe(terms)


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        errors.print(record.getMessage(), markup=False)


@contextmanager
def _engines_heard() -> Iterator[None]:
    """Show what engines log while the block runs, in words: stdout has the command's document."""
    logger, handler = logging.getLogger("provider.engines"), _OnStderr(logging.INFO)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
