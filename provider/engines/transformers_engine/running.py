"""One job on its way through the engine; touched by the loop's thread only, but for `is_cancelled`."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from provider.engines.base import EngineEnd, EngineError, EngineEvent, EngineJob, EngineTokens
from provider.engines.text import AnswerText
from tallystick.models.tokenizer import Tokenizer
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.receipts import Finish
from tallystick.protocol.sampler.fast import SamplerState

Outcome = EngineEvent | EngineError


@dataclass(frozen=True, slots=True)
class Limits:
    """Where this model's answers end by themselves."""

    eos_ids: Collection[int]
    context_length: int


class RunningJob:
    """The state of a job: its sampler, its text, and how far its prompt has been read."""

    def __init__(
        self, job: EngineJob, tokenizer: Tokenizer, limits: Limits, tell: Callable[[Outcome], None]
    ) -> None:
        self.job = job
        self.tell = tell
        self.is_cancelled = False
        self.unread = [*job.prompt_ids, *job.resume_ids]
        self.sampler = SamplerState(job.parameters, job.job_seed, job.resume_ids)
        self.last_id = -1
        self._text = AnswerText(tokenizer, job)
        self._eos_ids = limits.eos_ids
        self._end_position = min(job.parameters.max_tokens, limits.context_length - len(job.prompt_ids))

    def finish_before_start(self) -> EngineEnd | None:
        """Return the end of a job whose resumed tokens are a whole answer already, and tell its last text."""
        last = self.job.resume_ids[-1] if self.job.resume_ids else -1
        finish = self._finish_after(last)
        if finish is None:
            return None
        rest = self._text.push(()) + self._text.finish()
        if rest:
            self.tell(EngineTokens(self.sampler.position, (), rest))
        return self._end(finish)

    def accept(self, token_id: int, logits: Tensor) -> EngineEnd | None:
        """Take the drawn token and tell it; return the end if the job has come to it. `logits` are [V]."""
        position = self.sampler.position
        self.sampler.advance(token_id)
        self.last_id = token_id
        text = self._text.push((token_id,))
        finish = self._finish_after(token_id)
        if finish is not None:
            text += self._text.finish()
        self.tell(EngineTokens(position, (token_id,), text, self._logprobs(token_id, logits)))
        return None if finish is None else self._end(finish)

    def _finish_after(self, token_id: int) -> Finish | None:
        if token_id in self._eos_ids:
            return Finish.EOS
        if self._text.met is not None:
            return Finish.STOP_STRING
        return Finish.LENGTH if self.sampler.position >= self._end_position else None

    def _end(self, finish: Finish) -> EngineEnd:
        # The last bytes of a text can complete a stop string too.
        if self._text.met is not None:
            return EngineEnd(Finish.STOP_STRING, self._text.met)
        return EngineEnd(finish)

    def _logprobs(self, token_id: int, logits: Tensor) -> tuple[TokenLogprob, ...]:
        wanted = self.job.top_logprobs
        if wanted < 0:
            return ()
        # On the CPU, since Metal has no float64.
        likelihoods = torch.log_softmax(logits.cpu().double(), dim=0)
        best = torch.topk(likelihoods, min(wanted, len(likelihoods)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return (TokenLogprob(float(likelihoods[token_id]), top),)
