"""A reader that is gone before the first byte of its stream: the job stops all the same.

No client can leave at exactly that moment, so the application is called as its server calls it.
"""

import asyncio
import json
from typing import Any

import pytest

from marketplace.storage.tables import JobRow
from tests.api.asking import says
from tests.support.acting import DRIP
from tests.support.hubs import eventually
from tests.support.servers import Server

TOKENS = 2000


class Reader:
    """One streamed request at the application's door."""

    def __init__(self, api_key: str, *, gone_at: str) -> None:
        body = {"model": "echo", "messages": says(DRIP), "stream": True, "max_tokens": TOKENS}
        self._content: list[bytes] = [json.dumps(body).encode()]
        self._gone_at = gone_at
        self.waits = asyncio.Event()
        """Set when the server is held in its first `send`."""
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer " + api_key.encode())],
            "client": ("127.0.0.1", 1),
        }

    async def receive(self) -> dict[str, Any]:
        """Give the body; after it nothing comes."""
        if self._content:
            return {"type": "http.request", "body": self._content.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        """Fail, or hold the server for ever, at the message that the test names."""
        if message["type"] == self._gone_at:
            self.waits.set()
            await asyncio.Event().wait()
        if self._gone_at == "broken pipe":
            raise OSError(32, "Broken pipe")


async def cancelled(server: Server, reader: Reader) -> None:
    """Cancel the request where it waits, as a server that shuts down does."""
    asking = asyncio.create_task(server.app(reader.scope, reader.receive, reader.send))
    await asyncio.wait_for(reader.waits.wait(), 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def broken(server: Server, reader: Reader) -> None:
    """Let the first write fail."""
    with pytest.raises(OSError, match="Broken pipe"):
        await server.app(reader.scope, reader.receive, reader.send)


@pytest.mark.parametrize(
    ("gone_at", "leave"),
    [
        ("http.response.start", cancelled),
        ("http.response.body", cancelled),
        ("broken pipe", broken),
    ],
)
def test_a_reader_that_is_gone_before_the_stream_stops_the_job(
    server: Server, consumer: dict[str, Any], gone_at: str, leave: Any
) -> None:
    before = len(server.acts.jobs)

    async def act() -> None:
        await leave(server, Reader(consumer["api_key"], gone_at=gone_at))

    server.do(act())
    job_id = server.acts.jobs[before].job_id
    server.do(eventually(lambda: job_id in server.acts.stopped, 10))
    server.quiet()
    (job,) = server.read(lambda s: list(s.query(JobRow).filter_by(account_id=consumer["account_id"])))
    assert job.output_tokens < TOKENS
    assert server.account(consumer["account_id"]).held == 0
