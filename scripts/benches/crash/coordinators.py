"""Coordinators that are started, one after the other, to be killed; each a process of its own."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

from scripts.benches.crash.load import answers, until
from scripts.benches.crash.stage import Stage, plain_environment

PATIENCE = 240
"""Seconds in which one starts, on a machine that has much else to do."""


class DoesNotServe(Exception):
    """A coordinator neither serves nor ends."""


class Coordinators:
    """Starts one coordinator after the other and sees how it ends. `began` is the last one's Unix time."""

    def __init__(self, stage: Stage, forker: asyncio.subprocess.Process) -> None:
        self._stage = stage
        self._forker = forker
        self._end: asyncio.Future[str] | None = None
        self.pid = 0
        self.began = 0.0

    async def begin(self, point: str = "") -> None:
        """Start one that dies at `point`, if one is named; it does not serve yet."""
        assert self._forker.stdin is not None
        self.began = time.time()
        log = str(self._stage.folder / "coordinator.log")
        self._forker.stdin.write(json.dumps({"point": point, "log": log}).encode() + b"\n")
        self.pid = int((await self._line()).removeprefix("started "))
        self._end = asyncio.create_task(self._line())

    async def start(self, point: str = "") -> None:
        """Start one that dies at `point`, if one is named; return when it serves, or is dead already."""
        await self.begin(point)
        if not await until(self._serves_or_ended, PATIENCE):
            raise DoesNotServe((self._stage.folder / "coordinator.log").read_text()[-3000:])

    async def ended(self, seconds: float = PATIENCE) -> int | None:
        """Return the status with which it ended, None if it has not."""
        if self._end is None:
            return None
        done, _ = await asyncio.wait([self._end], timeout=seconds)
        return int(self._end.result().removeprefix("ended ")) if done else None

    async def end(self, with_signal: signal.Signals) -> int | None:
        """Send it a signal and return the status with which it ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, with_signal)
        return await self.ended()

    async def _serves_or_ended(self) -> bool:
        return (self._end is not None and self._end.done()) or await answers(self._stage, "/readyz")

    async def _line(self) -> str:
        assert self._forker.stdout is not None
        return (await self._forker.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def coordinators(stage: Stage, **settings: str) -> AsyncIterator[Coordinators]:
    """Give what starts coordinators on a stage, with more settings; the last one is killed at the end."""
    forker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.benches.crash.forking"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=plain_environment(**stage.environment, **settings, PYTHONPATH=os.getcwd()),
        cwd=os.getcwd(),
    )
    made = Coordinators(stage, forker)
    try:
        yield made
    finally:
        if made.pid and await made.ended(0) is None:
            await made.end(signal.SIGKILL)
        forker.kill()
        await forker.wait()
