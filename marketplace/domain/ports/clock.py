"""What time it is, as an argument, so that a test can say."""

import time
from typing import Protocol


class Clock(Protocol):
    """The present, in milliseconds since 1970 (UTC)."""

    def now_ms(self) -> int:
        """Return the present in milliseconds."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return the machine's time in milliseconds."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return the time that was set last."""
        return self._now_ms

    def advance(self, milliseconds: int) -> None:
        """Move the clock forward."""
        if milliseconds < 0:
            raise ValueError(f"a clock does not go back ({milliseconds} ms)")
        self._now_ms += milliseconds

    def jump(self, milliseconds: int) -> None:
        """Move the clock either way, as a machine's clock may be set."""
        self._now_ms += milliseconds
