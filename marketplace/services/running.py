"""A job that was accepted, between the one who reads its answer and the driver that makes it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from marketplace.domain.errors import MarketError
from marketplace.domain.jobs import AcceptedJob, Completed, Delta, JobEvent

MOST_TOGETHER: Final = 64
"""Tokens in one event. A reader that is behind gets fewer and longer ones, and takes less memory."""


class ReaderLeft(Exception):
    """Nobody waits for the answer any more."""


class RunningJob:
    """Iterate for the events; the last one is Completed, and by then the charge is in the books.

    Iteration raises NodesFailed if the answer cannot be completed (nothing is charged then), and ReaderLeft
    after `aclose`. What waits for a slow reader is at most the whole answer.
    """

    def __init__(self, accepted: AcceptedJob) -> None:
        self.accepted = accepted
        self.has_left = False
        """Whether the reader is gone: what was made so far is charged, and no more is made."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the hold is in the books; its exception is why there is none."""
        self.ended = asyncio.Event()
        self.is_whole = False
        """Whether the answer is complete; its charge is in the books then."""
        self._on_leave: Callable[[], Awaitable[None]] | None = None
        self._events: deque[JobEvent] = deque()
        self._error: MarketError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> "RunningJob":
        return self

    async def __anext__(self) -> JobEvent:
        while not self._events:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self.ended.is_set():
                raise StopAsyncIteration
            if self.has_left:
                raise ReaderLeft
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._events.popleft()

    async def aclose(self) -> None:
        """The reader leaves: stop the job, and let what was made be charged in the background."""
        if self.has_left or self.ended.is_set():
            return
        self.has_left = True
        self._events.clear()
        try:
            if self._on_leave is not None:
                await self._on_leave()
        finally:
            self._wake()

    async def dismiss(self, error: MarketError) -> None:
        """Take the answer from its reader, who is told why; what was made so far is charged all the same."""
        if not self.has_left and not self.ended.is_set():
            self._error = error
            await self.aclose()

    # What follows is for the driver.

    def when_left(self, call: Callable[[], Awaitable[None]]) -> None:
        """Have `call` awaited when the reader leaves."""
        self._on_leave = call

    def start(self) -> None:
        """The hold is in the books."""
        if not self.ready.done():
            self.ready.set_result(None)

    def refuse(self, error: BaseException) -> None:
        """There will be no hold and no answer."""
        self.ended.set()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # the caller may have gone; then nobody needs it

    def deliver(self, event: JobEvent) -> None:
        """Hand an event to the reader, unless it has left; what it has not taken yet is put together."""
        if self.has_left:
            return
        joined = _joined(self._events[-1], event) if self._events else None
        if joined is None:
            self._events.append(event)
        else:
            self._events[-1] = joined
        self._wake()

    def complete(self, event: Completed) -> None:
        """Hand over the last event."""
        self.is_whole = True
        self.ended.set()
        self.deliver(event)

    def fail(self, error: MarketError) -> None:
        """End with an error."""
        self.ended.set()
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _joined(earlier: JobEvent, later: JobEvent) -> Delta | None:
    """Return two pieces of an answer as one; None if they are not, or it would be a long one."""
    if not isinstance(earlier, Delta) or not isinstance(later, Delta) or earlier.node != later.node:
        return None
    if len(earlier.ids) + len(later.ids) > MOST_TOGETHER:
        return None
    ids, text = earlier.ids + later.ids, earlier.text + later.text
    return Delta(ids, text, earlier.logprobs + later.logprobs, earlier.node)
