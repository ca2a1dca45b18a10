"""A running agent's ear: a socket in its home, for its owner alone, that takes one JSON request a line.

{"do": "status"}                                       how it is
{"do": "terms", "model": …, "paused": true}            pause or resume
{"do": "terms", "model": …, "input_price": "0.25", …}  other prices or slots
{"do": "drain"}                                        finish and leave
"""

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
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
    return _shared() / f"{name}.sock"


@contextlib.asynccontextmanager
async def listen(home: Path, handle: Handler) -> AsyncIterator[None]:
    """Answer requests with `handle` while the block runs.

    Raises RuntimeError if another agent answers in this home already, or somebody else reaches its socket.
    """
    path = socket_path(home)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, mode=0o700)
    _check_private(path)
    if path.exists():
        try:
            await ask(home, {"do": "status"})
        except NotRunning:
            path.unlink()
        else:
            raise RuntimeError(f"an agent runs in {home} already")
    server = await asyncio.start_unix_server(lambda reader, writer: _answer(reader, writer, handle), path)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def ask(home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return the running agent's answer. Raises NotRunning if there is none, ValueError if it refuses."""
    path = socket_path(home)
    try:
        _check_private(path)
        reader, writer = await asyncio.open_unix_connection(path)
    except RuntimeError as error:
        raise NotRunning(str(error)) from error
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


def _shared() -> Path:
    """Return the folder for sockets of homes that are too deep, in a place where others may make folders."""
    return Path(tempfile.gettempdir()) / f"tallystick-{os.getuid()}"


def _check_private(path: Path) -> None:
    """Raise RuntimeError if the socket would be in a shared place where others can replace it.

    Whoever makes that folder first owns it. OSError if it is not there.
    """
    if path.parent != _shared():
        return
    found = path.parent.lstat()  # not where a link leads
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RuntimeError(
            f"{path.parent} is not a folder of yours alone (0700); remove it, or choose a shorter --home"
        )


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
