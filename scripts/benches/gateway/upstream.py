"""An OpenAI-compatible server that says the last message back as cheaply as it can, for the other gateways.

python -m scripts.benches.gateway.upstream --port 9100
"""

import argparse
import asyncio
import json
from typing import Any, cast

import httptools
import uvloop

HEAD = {"id": "chatcmpl-echo", "created": 1_700_000_000, "model": "echo"}


class Exchange(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the request."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        body = b"".join(self._body)
        self._body.clear()
        assert self._transport is not None
        self._transport.write(answer(json.loads(body)) if body else plain(b'{"object":"list","data":[]}'))


def answer(asked: dict[str, Any]) -> bytes:
    """Return the whole response: one JSON body, or events with a few characters each."""
    text = asked["messages"][-1]["content"]
    tokens = {"prompt_tokens": len(text), "completion_tokens": len(text), "total_tokens": 2 * len(text)}
    if asked.get("stream"):
        return streamed(text, tokens)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": None,
        "finish_reason": "stop",
    }
    whole = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": tokens}
    return plain(json.dumps(whole).encode())


def plain(body: bytes) -> bytes:
    """Return a response with a JSON body."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def streamed(text: str, tokens: dict[str, int]) -> bytes:
    """Return a response with one event for each character, as a node gives one token at a time."""
    chunk = {**HEAD, "object": "chat.completion.chunk"}

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        data = f"data: {json.dumps({**chunk, 'choices': choices, **more})}\n\n".encode()
        return f"{len(data):x}\r\n".encode() + data + b"\r\n"

    pieces = [event([{"index": 0, "delta": {"content": one}, "finish_reason": None}]) for one in text]
    last = event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + event([], usage=tokens)
    end = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(pieces) + last + end


async def serve(port: int) -> None:
    """Serve until the process ends."""
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve on the given port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
