"""Server-sent events: how they are written, and a response that stops the work when the reader leaves."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")

DONE: Final = b"data: [DONE]\n\n"
HEARTBEAT: Final = b": still here\n\n"
HEARTBEAT_SECONDS: Final = 10.0
_encode = msgspec.json.Encoder().encode


def event(data: Any) -> bytes:
    """Return one unnamed event with `data` as JSON."""
    return b"data: " + _encode(data) + b"\n\n"


class EventStream:
    """An ASGI response that sends the chunks of `events` as they come.

    While none comes it sends comments, so that proxies keep the connection. When the reader leaves, `events`
    is cancelled where it waits and closed, and `stop` is awaited, however early that was: the clean-up of a
    generator that never began is never run. A slow reader holds the loop at `send`; nothing is queued here.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        """`stop` ends the work behind `events`; it does nothing when that has ended."""
        self._events = events
        self._stop = stop
        self._last_sent = time.monotonic()
        self._headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; return when it has ended or the reader has left."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._relay(receive, send)
        finally:
            await self._stop()

    async def _relay(self, receive: Receive, send: Send) -> None:
        pump = asyncio.create_task(self._pump(send), name="sse-pump")
        others = [asyncio.create_task(disconnected(receive)), asyncio.create_task(self._beat(send))]
        try:
            await asyncio.wait({pump, others[0]}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(pump, *others)
            await self._events.aclose()
        if (
            not pump.cancelled()
            and (error := pump.exception()) is not None
            and not isinstance(error, OSError)
        ):
            raise error  # an OSError is a socket that went away in the middle of a write

    async def _pump(self, send: Send) -> None:
        async for chunk in self._events:
            await send(_body(chunk))
            self._last_sent = time.monotonic()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        while True:
            idle = time.monotonic() - self._last_sent
            await asyncio.sleep(max(HEARTBEAT_SECONDS - idle, 0.1))
            if time.monotonic() - self._last_sent >= HEARTBEAT_SECONDS:
                await send(_body(HEARTBEAT))
                self._last_sent = time.monotonic()


async def unless_reader_leaves(
    receive: Receive, leave: Callable[[], Awaitable[None]], work: Coroutine[Any, Any, T]
) -> T:
    """Return what `work` returns.

    If the reader leaves first, `leave` is called, which must make `work` end; what that raises is raised.
    """

    has_left = False

    async def watch() -> None:
        nonlocal has_left
        await disconnected(receive)
        has_left = True
        await leave()

    watching = asyncio.create_task(watch())
    try:
        return await work
    finally:
        if not has_left:
            watching.cancel()


async def disconnected(receive: Receive) -> None:
    """Return when the reader has left. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _body(chunk: bytes) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": True}
