"""How a stranger's model stands with those who share the machine with it.

What it spends beyond the usual is remembered and forgotten slowly; too much of it is followed by a rest. Each
rest is twice as long as the one before, so an honest model that a strange prompt brought down is soon back.
"""

from typing import Final

EXCESS_SECONDS: Final = 2.0
EXCESS_FORGOTTEN: Final = 0.01
"""CPU seconds in each second."""
REST_SECONDS: Final = 10.0
LONGEST_REST_SECONDS: Final = 600.0
"""As long without a rest, and the next one is short again."""


class Standing:
    """One model's. Times are in seconds of one clock, CPU time in seconds."""

    def __init__(self) -> None:
        self._excess = 0.0
        self._at = 0.0
        self._until = 0.0
        self._next = REST_SECONDS

    def is_resting(self, now: float) -> bool:
        """Say whether it is not to be asked."""
        return now < self._until

    def spent(self, excess: float, now: float) -> None:
        """Note that an answer took `excess` CPU seconds more than usual; none if it is negative."""
        if excess <= 0:
            return
        self._excess = max(0.0, self._excess - (now - self._at) * EXCESS_FORGOTTEN) + excess
        self._at = now
        if self._excess > EXCESS_SECONDS:
            self.rest(now)

    def rest(self, now: float) -> None:
        """Let it rest from now on."""
        if now - self._until > LONGEST_REST_SECONDS:
            self._next = REST_SECONDS
        self._until = now + self._next
        self._next = min(2 * self._next, LONGEST_REST_SECONDS)
        self._excess = 0.0
