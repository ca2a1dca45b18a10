"""An engine whose answers follow what the prompt says: a test chooses a node's behaviour by its message."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from provider.engines.base import (
    EngineBroken,
    EngineEnd,
    EngineEvent,
    EngineJob,
    EngineRefused,
    EngineTokens,
)
from provider.engines.echo import EchoEngine
from tallystick.models.tokenizer import EOS_BYTE
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.receipts import Finish

DRIP = "drip"
"""One token every few milliseconds, without end."""
BREAK_AT_ONCE = "break at once"
REFUSE = "refuse"
"""As an engine does that does not take what a request asks for."""
BREAK_MIDWAY = "break midway"
"""Some tokens, then the engine fails."""
SEEDED = "seeded"
"""Letters that follow from the job's seed."""
LIKELY = "likely"
"""Three letters with made-up likelihoods."""
WITHHELD = "withheld"
"""No token before the test allows it."""


@dataclass
class Acts:
    """What a test sees and steers of the engines that share it."""

    jobs: list[EngineJob] = field(default_factory=list)
    stopped: list[bytes] = field(default_factory=list)
    """Jobs whose generator was closed before it ended."""
    allowed: asyncio.Event = field(default_factory=asyncio.Event)

    def last(self) -> EngineJob:
        """Return the job that came last."""
        return self.jobs[-1]


class ActingEngine(EchoEngine):
    """An echo, but for the words above."""

    def __init__(self, acts: Acts) -> None:
        super().__init__(model_name="echo")
        self._acts = acts

    async def generate(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        """Play the part that the last line of the prompt names."""
        self._acts.jobs.append(job)
        said = job.prompt_text.removesuffix("\nassistant: ").rpartition("user: ")[2]
        parts = {
            DRIP: self._drip,
            BREAK_AT_ONCE: _break_at_once,
            REFUSE: _refuse,
            BREAK_MIDWAY: _break_midway,
            SEEDED: _seeded,
            LIKELY: _likely,
            WITHHELD: self._withheld,
        }
        play = parts.get(said, super().generate)
        ended = False
        try:
            async for event in play(job):
                ended = isinstance(event, EngineEnd)
                yield event
        finally:
            if not ended:
                self._acts.stopped.append(job.job_id)

    async def _drip(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        for position in range(job.parameters.max_tokens):
            yield EngineTokens(position, (ord("d"),), "d")
            await asyncio.sleep(0.01)
        yield EngineEnd(Finish.LENGTH)

    async def _withheld(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        await self._acts.allowed.wait()
        yield EngineTokens(0, (ord("w"), EOS_BYTE), "w")
        yield EngineEnd(Finish.EOS)


async def _refuse(job: EngineJob) -> AsyncIterator[EngineEvent]:
    raise EngineRefused("request", "10.0.0.7 says: no such parameter")
    yield EngineEnd(Finish.EOS)  # makes this a generator


async def _break_at_once(job: EngineJob) -> AsyncIterator[EngineEvent]:
    raise EngineBroken("engine", "as was asked for")
    yield EngineEnd(Finish.EOS)  # makes this a generator


async def _break_midway(job: EngineJob) -> AsyncIterator[EngineEvent]:
    yield EngineTokens(0, tuple(b"half an"), "half an")
    raise EngineBroken("engine", "as was asked for")


async def _seeded(job: EngineJob) -> AsyncIterator[EngineEvent]:
    noise = hashlib.sha256(job.job_seed).digest()
    letters = bytes(ord("a") + byte % 26 for byte in noise)
    yield EngineTokens(0, (*letters, EOS_BYTE), letters.decode())
    yield EngineEnd(Finish.EOS)


async def _likely(job: EngineJob) -> AsyncIterator[EngineEvent]:
    for position, letter in enumerate(b"abc"):
        top = tuple((letter + other, -0.5 - other) for other in range(max(0, job.top_logprobs)))
        known = (TokenLogprob(-0.5, top),) if job.top_logprobs >= 0 else ()
        yield EngineTokens(position, (letter,), chr(letter), known)
    yield EngineTokens(3, (EOS_BYTE,), "", (TokenLogprob(-0.1, ()),) if job.top_logprobs >= 0 else ())
    yield EngineEnd(Finish.EOS)
