"""The engine that says the last message back, for load tests and first steps: exact, instant, no weights.

Its tokens are the bytes of the last user message, then the end token; sampling parameters and seed change
nothing. The same job gives the same ids on every node, so that audits and failover can be tried on it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from provider.engines.base import EngineBroken, EngineEnd, EngineEvent, EngineJob, EngineRefused, EngineTokens
from provider.engines.text import AnswerText
from tallystick.models.chat import DEFAULT_TEMPLATE
from tallystick.models.manifest import BYTES_TOKENIZER, Manifest, canonical_json
from tallystick.models.tokenizer import EOS_BYTE, ByteTokenizer
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.receipts import Finish

CONTEXT_LENGTH: Final = 32_768
_USER: Final = b"user: "
_ASSISTANT: Final = b"\nassistant: "


class EchoEngine:
    """Repeats the last user message `copies` times (0: until max_tokens), `tokens_per_event` ids at a time.

    `seconds_per_token` slows it down to the pace of a real model.
    """

    name = "echo"

    def __init__(
        self,
        *,
        slots: int = 64,
        seconds_per_token: float = 0.0,
        tokens_per_event: int = 64,
        copies: int = 1,
        model_name: str = "echo",
    ) -> None:
        if slots < 1 or tokens_per_event < 1 or copies < 0 or seconds_per_token < 0:
            raise EngineRefused(
                "engine", "echo needs at least one slot and one token per event, and no negative"
            )
        self.slots = slots
        self.manifest = Manifest(
            name=model_name,
            family="echo",
            tokenizer=BYTES_TOKENIZER,
            chat_template=DEFAULT_TEMPLATE,
            eos_ids=(EOS_BYTE,),
            vocab_size=ByteTokenizer.vocab_size,
            context_length=CONTEXT_LENGTH,
            numerics="echo",
        )
        self.manifest_bytes = canonical_json(self.manifest)
        self._seconds_per_token = seconds_per_token
        self._tokens_per_event = tokens_per_event
        self._copies = copies
        self._tokenizer = ByteTokenizer()
        self._free = asyncio.Semaphore(slots)
        self._is_closed = False

    async def start(self) -> None:
        self._is_closed = False

    async def close(self) -> None:
        self._is_closed = True

    def blob(self, sha256: bytes) -> bytes | None:
        return None

    async def generate(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        async with self._free:
            room = CONTEXT_LENGTH - len(job.prompt_ids)
            if room < 1:
                raise EngineRefused(
                    "too_long", f"a prompt of {len(job.prompt_ids)} tokens leaves no room in {CONTEXT_LENGTH}"
                )
            if max((*job.prompt_ids, *job.resume_ids), default=0) > EOS_BYTE:
                raise EngineRefused("engine", f"a token id here is 0 to {EOS_BYTE}")
            limit = min(job.parameters.max_tokens, room)
            answer = _answer(job.prompt_ids, limit, self._copies)
            async for event in self._events(job, answer):
                yield event

    async def _events(self, job: EngineJob, answer: Sequence[int]) -> AsyncIterator[EngineEvent]:
        text = AnswerText(self._tokenizer, job)
        position = job.first_position
        while position < len(answer) and text.met is None:
            await asyncio.sleep(self._seconds_per_token * min(self._tokens_per_event, len(answer) - position))
            if self._is_closed:
                raise EngineBroken("engine", "the engine is closing")
            chunk = answer[position : position + self._tokens_per_event]
            ids, piece = _pushed(text, chunk, has_stops=bool(job.parameters.stop))
            yield EngineTokens(position, tuple(ids), piece, _logprobs(job, ids))
            position += len(ids)
        rest = text.finish()
        if rest:
            yield EngineTokens(position, (), rest)
        yield _end(text, ended=(position > 0 and answer[position - 1 : position] == [EOS_BYTE]))


def _answer(prompt_ids: Sequence[int], limit: int, copies: int) -> list[int]:
    """Return the whole answer from position 0, cut at `limit`."""
    prompt = bytes([one for one in prompt_ids if one != EOS_BYTE])
    said = (
        prompt[prompt.rfind(b"\n" + _USER) + 1 :].removeprefix(_USER).removesuffix(_ASSISTANT).rstrip(b"\n")
        or b" "
    )
    if copies == 0:
        return list(said * (limit // len(said) + 1))[:limit]
    return [*said * copies, EOS_BYTE][:limit]


def _pushed(text: AnswerText, chunk: Sequence[int], *, has_stops: bool) -> tuple[Sequence[int], str]:
    """Return how much of `chunk` was drawn before a stop string was complete, and its text."""
    if not has_stops:
        return chunk, text.push(chunk)
    pieces = []
    for index, one in enumerate(chunk):
        pieces.append(text.push((one,)))
        if text.met is not None:
            return chunk[: index + 1], "".join(pieces)
    return chunk, "".join(pieces)


def _logprobs(job: EngineJob, ids: Sequence[int]) -> tuple[TokenLogprob, ...]:
    if job.top_logprobs < 0:
        return ()
    return tuple(TokenLogprob(0.0, ((one, 0.0),) if job.top_logprobs else ()) for one in ids)


def _end(text: AnswerText, *, ended: bool) -> EngineEnd:
    if text.met is not None:
        return EngineEnd(Finish.STOP_STRING, text.met)
    return EngineEnd(Finish.EOS if ended else Finish.LENGTH)
