"""Things that a person should look at: one log line, and a counter that monitoring can watch."""

from typing import Final

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

ALARMS: Final = Counter("tallystick_alarms_total", "Things that a person should look at.", ["kind"])


def alarm(kind: str, **facts: object) -> None:
    """Log `kind` as an error with its facts, and count it."""
    ALARMS.labels(kind).inc()
    log.error(kind, **facts)
