"""What an engine is: it takes jobs and yields tokens with their text.

The text rules are the same for every engine. All the text of a job's events together is the text of
`resume_ids + ids`, from `resume_text_bytes` on, up to the stop string that was met. Text may lag behind its
ids (an unfinished character, what may begin a stop string); it is complete before the end is yielded.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from tallystick.models.manifest import Manifest
from tallystick.protocol.frames import Job, TokenLogprob
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish

NO_LOGPROBS: Final = -1


class EngineError(Exception):
    """The root; `code` is the one that the node's Failed frame carries."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class EngineRefused(EngineError):
    """The engine will not run this job: too long, or asking for what it cannot do. Another job may run."""


class EngineUnavailable(EngineError):
    """What the engine depends on does not answer now; the job may run elsewhere, or later."""


class EngineBroken(EngineError):
    """The engine failed at this job, or altogether."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One attempt at a job, as far as an engine needs to know. Positions count generated tokens from 0."""

    job_id: bytes
    attempt: int
    prompt_ids: tuple[int, ...]
    prompt_text: str
    parameters: Parameters
    job_seed: bytes
    resume_ids: tuple[int, ...] = ()
    resume_text_bytes: int = 0
    first_position: int = 0
    top_logprobs: int = NO_LOGPROBS

    @classmethod
    def from_frame(cls, frame: Job) -> "EngineJob":
        """Return what `frame` asks an engine to do. Raises EngineRefused if it contradicts itself."""
        if frame.first_position != len(frame.resume_ids):
            raise EngineRefused(
                "engine",
                f"first_position {frame.first_position} with {len(frame.resume_ids)} resumed ids",
            )
        return cls(**{name: getattr(frame, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class EngineTokens:
    """Tokens `position …`, and the text that became certain with them.

    Counts are of the answer so far, and given only by engines that do not show their ids.
    """

    position: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """Why the job ended. Counts are given only by engines that do not show their ids."""

    finish: Finish
    stop: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None


EngineEvent = EngineTokens | EngineEnd


class Engine(Protocol):
    """Runs jobs of one model, up to `slots` of them at once; more wait inside, first come first served."""

    @property
    def name(self) -> str:
        """How the engine is called in the configuration."""
        ...

    @property
    def manifest(self) -> Manifest:
        """What is served; known once the engine has started."""
        ...

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest's canonical JSON, whose hash is the model id."""
        ...

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        ...

    async def start(self) -> None:
        """Load what is needed. Raises EngineRefused (configuration), EngineUnavailable or EngineBroken."""
        ...

    async def close(self) -> None:
        """End running jobs with EngineBroken and free everything."""
        ...

    def generate(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        """Yield the job's tokens, then one EngineEnd. Closing the generator stops the job at the next step.

        Raises EngineRefused (`too_long`, `request`), EngineUnavailable or EngineBroken.
        """
        ...

    def blob(self, sha256: bytes) -> bytes | None:
        """Return the tokenizer.json that the manifest names, if this is its SHA-256."""
        ...
