"""Noticing that a node has stopped making progress."""

import asyncio

from marketplace.domain.ports.link import JobStream


class StallWatch:
    """Interrupts a stream whose first frame, or next frame, does not come in time."""

    __slots__ = ("_limit", "_loop", "_next_limit", "_stream", "_timer", "_touched_at")

    def __init__(self, stream: JobStream, *, first: float, following: float) -> None:
        """Begin to watch; times in seconds."""
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._limit = first
        self._next_limit = following
        self._touched_at = self._loop.time()
        self._timer = self._loop.call_later(first, self._look)

    def touch(self) -> None:
        """Note that a frame has come."""
        self._touched_at = self._loop.time()
        if self._limit != self._next_limit:
            self._limit = self._next_limit
            self._timer.cancel()
            self._timer = self._loop.call_later(self._limit, self._look)

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        due = self._touched_at + self._limit
        if self._loop.time() >= due:
            self._stream.interrupt(f"no progress for {self._limit:g} s")
        else:
            self._timer = self._loop.call_at(due, self._look)
