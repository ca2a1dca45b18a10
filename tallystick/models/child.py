"""A process for one stranger's model, from its parent's side; `confined` is what runs in it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import weakref
from typing import Final

from tallystick.models import confined
from tallystick.models.confined import Answer, Ask, Setup

ANSWER_SECONDS: Final = 20.0
PATIENCE: Final = 10
"""The CPU time ends a busy process; 20 s and ten times its CPU time end the wait for one that gets none."""

PART_BYTES: Final = 256 * 1024
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Gone(Exception):
    """The process has ended, or does not answer; `is_its_own_fault` if it ran out of CPU time."""

    def __init__(self, is_its_own_fault: bool = False) -> None:
        super().__init__()
        self.is_its_own_fault = is_its_own_fault


class Child:
    """One question at a time."""

    def __init__(self) -> None:
        self._wire, theirs = socket.socketpair()
        self._wire.setblocking(False)
        with theirs:
            self._process = _spawn(theirs)
        self.end = weakref.finalize(self, _end, self._process, self._wire)
        """Kill the process and wait for its end; done at the latest when nobody holds this any more."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ask(self, question: Setup | Ask) -> Answer:
        """Return the answer. Raises Gone; the process is of no more use then."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS + PATIENCE * question.cpu_seconds):
                return confined.decode_answer(await self._exchange(confined.encode(question)))
        except (OSError, EOFError) as error:  # a TimeoutError is one too
            is_ended = not isinstance(error, TimeoutError)
            if is_ended:
                await asyncio.to_thread(self._process.wait)
            raise Gone(is_ended and self._process.returncode == -signal.SIGPROF) from error

    async def _exchange(self, message: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._wire, confined.LENGTH.pack(len(message)) + message)
        got, end = bytearray(), confined.LENGTH.size
        while len(got) < end:
            part = await loop.sock_recv(self._wire, PART_BYTES)
            if not part:
                raise EOFError
            got += part
            if end == confined.LENGTH.size <= len(got):
                end += confined.LENGTH.unpack_from(got)[0]
        return bytes(got[confined.LENGTH.size :])


def _spawn(wire: socket.socket) -> "subprocess.Popen[bytes]":
    # No secrets of the coordinator's, and no threads: they would take memory for nothing.
    given = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "tallystick.models.confined"],
        stdin=wire.fileno(),
        stdout=subprocess.DEVNULL,
        env=given | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
    )


def _end(process: "subprocess.Popen[bytes]", wire: socket.socket) -> None:
    process.kill()
    process.wait()
    wire.close()
