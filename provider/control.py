"""A running agent's ear: a socket in its home, for its owner alone, that takes one JSON request a line.

{"do": "status"}                                       how it is
{"do": "terms", "model": …, "paused": true}            pause or resume
{"do": "terms", "model": …, "input_price": "0.25", …}  other prices or slots
{"do": "drain"}                                        finish and leave
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

SOCKET_NAME: Final = "agent.sock"
Handler = Callable[[dict[str, Any]], dict[str, Any]]


class NotRunning(Exception):
    """No agent answers in this home."""


@asynccontextmanager
async def listen(home: Path, handle: Handler) -> AsyncIterator[None]:
    """Answer requests with `handle` while the block runs. Raises RuntimeError if another agent answers already."""
    path = home / SOCKET_NAME
    if path.exists():
        try:
            await ask(home, {"do": "status"})
        except NotRunning:
            path.unlink()
        else:
            raise RuntimeError(f"an agent runs in {home} already")
    server = await asyncio.start_unix_server(lambda reader, writer: _answer(reader, writer, handle), path)
    os.chmod(path, 0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def ask(home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return the running agent's answer. Raises NotRunning if there is none, ValueError if it refuses."""
    try:
        reader, writer = await asyncio.open_unix_connection(home / SOCKET_NAME)
    except OSError as error:
        raise NotRunning(
            f"no agent runs in {home}; start it with: tallystick provider run --home {home}"
        ) from error
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        line = await asyncio.wait_for(reader.readline(), 10)
    except (ConnectionError, TimeoutError) as error:
        raise NotRunning(f"the agent in {home} does not answer") from error
    finally:
        writer.close()
    if not line:
        raise NotRunning(f"the agent in {home} hung up")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
    try:
        line = await reader.readline()
        try:
            answer = handle(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    except ConnectionError:
        return  # whoever asked did not wait for the answer
    finally:
        writer.close()
