"""A running agent's ear: a socket in its home, for its owner alone, that takes one JSON request a line.

{"do": "status"}                                       how it is
{"do": "terms", "model": …, "paused": true}            pause or resume
{"do": "terms", "model": …, "input_price": "0.25", …}  other prices or slots
{"do": "drain"}                                        finish and leave
"""

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

SOCKET_NAME: Final = "agent.sock"
LONGEST_SOCKET_PATH: Final = 100
"""What every Unix takes, in bytes (104 on macOS, 108 on Linux, with a zero at the end)."""
Handler = Callable[[dict[str, Any]], dict[str, Any]]


class NotRunning(Exception):
    """No agent answers in this home."""


def socket_path(home: Path) -> Path:
    """Return where the socket is: in the home, or in a private temporary folder if that is too deep."""
    path = home.absolute() / SOCKET_NAME
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tallystick-{os.getuid()}" / f"{name}.sock"


@asynccontextmanager
async def listen(home: Path, handle: Handler) -> AsyncIterator[None]:
    """Answer requests with `handle` while the block runs.

    Raises RuntimeError if another agent answers in this home already.
    """
    path = socket_path(home)
    if path.exists():
        try:
            await ask(home, {"do": "status"})
        except NotRunning:
            path.unlink()
        else:
            raise RuntimeError(f"an agent runs in {home} already")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = await asyncio.start_unix_server(lambda reader, writer: _answer(reader, writer, handle), path)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def ask(home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return the running agent's answer. Raises NotRunning if there is none, ValueError if it refuses."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path(home))
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


def reply(line: bytes, handle: Handler) -> dict[str, Any]:
    """Return the answer to one line; one that is no request, or asks what cannot be done, gets an `error`."""
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ValueError("a request is a JSON object")
        return handle(request)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return {"error": f"{error}"}


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
    try:
        try:
            answer = reply(await reader.readline(), handle)
        except ValueError as error:  # a line beyond the reader's limit
            answer = {"error": f"{error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    except ConnectionError:
        return  # whoever asked did not wait for the answer
    finally:
        writer.close()
