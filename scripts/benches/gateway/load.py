"""Closed-loop load over keep-alive connections: each sends its next request when the last answer is whole.

A process of its own, so that its CPU time can be told from the gateway's:
`python -m scripts.benches.gateway.load --url … --seconds 10 …` prints one JSON document.
"""

import argparse
import asyncio
import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httptools
import uvloop

DEADLINE_SECONDS: Final = 60.0
SLOW_DEADLINE_SECONDS: Final = 300.0
"""How long the last answers may take when the time is over; slow readers take a minute and a half for one."""
SHOWN_PROBLEMS: Final = 3
SHOWN_BYTES: Final = 200
TAIL_BYTES: Final = 4096
SMALL_BUFFER: Final = 8192
"""What a slow reader's socket takes in, so that the rest waits at the server."""
COUNTED: Final = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass
class Tally:
    """What came back. Times in seconds of a monotonic clock."""

    latencies: list[float] = field(default_factory=list)
    tokens: int = 0
    """Of the answers, by their own count."""
    body_bytes: int = 0
    problems: list[str] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One connection that asks again and again until `until`."""

    def __init__(self, request: bytes, tally: Tally, until: float, pace: float) -> None:
        """`pace` is how many bytes a second it reads; 0: all that come."""
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Its result: whether to go on over another connection."""
        self._request = request
        self._tally = tally
        self._until = until
        self._asked_at = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._head = self._tail = b""
        self._is_between_answers = False
        self._pace = pace
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)
        if self._pace:
            self._rest(len(data))

    def on_body(self, body: bytes) -> None:
        """Count a piece of an answer."""
        self._is_between_answers = False
        self._tally.body_bytes += len(body)
        if not self._head:
            self._head = body[:SHOWN_BYTES]
        self._tail = (self._tail + body)[-TAIL_BYTES:]

    def on_message_complete(self) -> None:
        """Note how long the answer took, and ask again."""
        now = time.perf_counter()
        status = self._parser.get_status_code()
        counted = COUNTED.search(self._tail)
        if status == 200 and counted:
            self._tally.latencies.append(now - self._asked_at)
            self._tally.tokens += int(counted[1])
        else:
            self._tally.problems.append(f"{status}: {self._head!r} … {self._tail[-SHOWN_BYTES:]!r}")
        self._head = self._tail = b""
        if not self._parser.should_keep_alive():
            self._end("the server closes its connections")
        elif now >= self._until:
            self._end("")
        else:
            self._is_between_answers = True
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that goes in the middle of an answer is a problem.

        Between two it may: to a server whose answer waits in the sockets for a slow reader, it was idle.
        """
        if self._is_between_answers and not self.done.done():
            self.done.set_result(True)
        self._end(f"the connection was lost: {exc}")

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        assert self._transport is not None
        self._transport.write(self._request)

    def _rest(self, size: int) -> None:
        """Read nothing for as long as reading this much should take."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(size / self._pace, self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _end(self, problem: str) -> None:
        if self.done.done():
            return
        if problem:
            self._tally.problems.append(problem)
        self.done.set_result(False)
        if self._transport is not None:
            self._transport.close()


def request_bytes(url: str, headers: Sequence[str], body: bytes) -> bytes:
    """Return a whole POST request; `headers` are `Name: value`."""
    parts = urlsplit(url)
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def drive(
    url: str, request: bytes, *, connections: int, seconds: float, pace: float
) -> tuple[Tally, float, float]:
    """Return what came back, how many seconds it took, and the CPU seconds of this process for it."""
    tally = Tally()
    began, cpu = time.perf_counter(), time.process_time()
    until = began + seconds
    visits = [asyncio.create_task(_visit(url, request, tally, until, pace)) for _ in range(connections)]
    deadline = SLOW_DEADLINE_SECONDS if pace else DEADLINE_SECONDS
    ended, still_open = await asyncio.wait(visits, timeout=seconds + deadline)
    for visit in ended:
        visit.result()
    if still_open:
        tally.problems.append(f"{len(still_open)} answers did not come within {deadline:.0f} s")
    return tally, time.perf_counter() - began, time.process_time() - cpu


async def _visit(url: str, request: bytes, tally: Tally, until: float, pace: float) -> None:
    goes_on = True
    while goes_on and time.perf_counter() < until:
        connection = await _connect(url, Connection(request, tally, until, pace), pace)
        goes_on = await connection.done


async def _connect(url: str, connection: Connection, pace: float) -> Connection:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    plug = socket.socket()
    plug.setblocking(False)
    if pace:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    await loop.sock_connect(plug, (parts.hostname, parts.port))
    await loop.create_connection(lambda: connection, sock=plug)
    return connection


def summary(tally: Tally, wall: float, cpu: float) -> dict[str, Any]:
    """Return the figures; times of answers in milliseconds."""
    ordered = sorted(tally.latencies)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0

    count = len(ordered)
    return {
        "answers": count,
        "seconds": wall,
        "per_second": count / wall,
        "median_ms": at(0.5),
        "p99_ms": at(0.99),
        "tokens": tally.tokens,
        "tokens_per_second": tally.tokens / wall,
        "body_bytes": tally.body_bytes,
        "load_cpu_us": cpu / count * 1e6 if count else 0.0,
        "problems": len(tally.problems),
        "first_problems": tally.problems[:SHOWN_PROBLEMS],
    }


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--body", required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pace", type=float, default=0, help="bytes a second that each connection reads")
    options = parser.parse_args()
    request = request_bytes(options.url, options.header, options.body.encode())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(
            drive(
                options.url,
                request,
                connections=options.connections,
                seconds=options.seconds,
                pace=options.pace,
            )
        )
    print(json.dumps(summary(*done)))


if __name__ == "__main__":
    main()
