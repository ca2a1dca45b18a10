"""Answers as OpenAI's clients read them, whole and in chunks, with this market's proof beside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from marketplace.domain.catalog import CatalogModel
from marketplace.domain.jobs import Completed, Delta
from tallystick.models.tokenizer import Detokenizer
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.ids import to_hex
from tallystick.protocol.money import format_usd
from tallystick.protocol.receipts import Finish


@dataclass(frozen=True, slots=True)
class Frame:
    """What every object of one answer begins with. `model` is the name that the caller used."""

    id: str
    object: str
    created: int
    model: str

    def head(self) -> dict[str, Any]:
        """Return the fields that come first."""
        return {"id": self.id, "object": self.object, "created": self.created, "model": self.model}


def finish_reason(finish: Finish) -> str:
    """Return OpenAI's word for why an answer ended."""
    return "length" if finish is Finish.LENGTH else "stop"


def usage(completed: Completed) -> dict[str, int]:
    """Return the token counts that were billed."""
    return {
        "prompt_tokens": completed.prompt_tokens,
        "completion_tokens": completed.output_tokens,
        "total_tokens": completed.prompt_tokens + completed.output_tokens,
    }


def proof(job_id: bytes, completed: Completed) -> dict[str, Any]:
    """Return who served the answer, under which receipts, and what it cost, exactly."""
    return {
        "job_id": to_hex(job_id),
        "charge_nano_usd": str(completed.charge),
        "charge_usd": format_usd(completed.charge),
        "parts": [
            {
                "receipt": to_hex(part.receipt_id),
                "node": part.node,
                "operator": part.operator,
                "prompt_tokens": part.prompt_tokens,
                "output_tokens": part.output_tokens,
                "charge_nano_usd": str(part.charge),
            }
            for part in completed.parts
        ],
    }


def chat_message(
    frame: Frame, text: str, completed: Completed, logprobs: dict[str, Any] | None, job_id: bytes
) -> dict[str, Any]:
    """Return a whole `chat.completion`."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": finish_reason(completed.finish),
    }
    return frame.head() | {
        "choices": [choice],
        "usage": usage(completed),
        "tallystick": proof(job_id, completed),
    }


def text_message(
    frame: Frame, text: str, completed: Completed, logprobs: dict[str, Any] | None, job_id: bytes
) -> dict[str, Any]:
    """Return a whole `text_completion`."""
    choice = {
        "index": 0,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason(completed.finish),
    }
    return frame.head() | {
        "choices": [choice],
        "usage": usage(completed),
        "tallystick": proof(job_id, completed),
    }


def chat_choice(
    delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    """Return the choice of a `chat.completion.chunk`."""
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def text_choice(
    text: str, logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    """Return the choice of a streamed `text_completion`."""
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}


class ChatLogprobs:
    """Log-likelihoods as chat completions show them; the token that ends an answer is not shown."""

    def __init__(self, model: CatalogModel, top: int) -> None:
        self._model = model
        self._top = top

    def render(self, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        """Return `logprobs` for some deltas; None if they carry none."""
        tokenizer = self._model.tokenizer
        if tokenizer is None or not any(delta.logprobs for delta in deltas):
            return None
        shown = [
            _entry(tokenizer, token, one.logprob)
            | {"top_logprobs": [_entry(tokenizer, other, value) for other, value in one.top[: self._top]]}
            for token, one in _pairs(deltas, self._model.eos_ids)
        ]
        return {"content": shown, "refusal": None}


class TextLogprobs:
    """Log-likelihoods as text completions show them: parallel lists, with offsets into the text."""

    def __init__(self, model: CatalogModel, top: int) -> None:
        self._model = model
        self._top = top
        self._offset = 0

    def render(self, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        """Return `logprobs` for some deltas; None if they carry none."""
        tokenizer = self._model.tokenizer
        if tokenizer is None or not any(delta.logprobs for delta in deltas):
            return None
        shown: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token, one in _pairs(deltas, self._model.eos_ids):
            text = tokenizer.token_text(token)
            shown["tokens"].append(text)
            shown["token_logprobs"].append(one.logprob)
            shown["top_logprobs"].append(
                {tokenizer.token_text(other): value for other, value in one.top[: self._top]}
            )
            shown["text_offset"].append(self._offset)
            self._offset += len(text)
        return shown


def _pairs(deltas: Sequence[Delta], hidden: frozenset[int]) -> Iterable[tuple[int, TokenLogprob]]:
    return (
        (token, one)
        for delta in deltas
        for token, one in zip(delta.ids, delta.logprobs, strict=False)
        if token not in hidden
    )


def _entry(tokenizer: Detokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token),
        "logprob": logprob,
        "bytes": list(tokenizer.token_bytes(token)),
    }
