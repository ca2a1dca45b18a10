"""How much a peer may send: a bucket that fills with time."""


class Bucket:
    """Allows `rate` units a second and bursts of `burst`; time comes in as seconds of a monotonic clock."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def owed_after(self, amount: float, now: float) -> float:
        """Take `amount`, also if it is not all there; return the seconds until what was owed has come in."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - amount
        self._at = now
        return max(0.0, -self._level / self._rate)
