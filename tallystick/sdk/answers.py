"""What a chat completion becomes on the client's side, whole or as a stream of pieces."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tallystick.consents import Consent
from tallystick.protocol.ids import to_bytes32
from tallystick.protocol.money import NanoUsd


class TallystickError(Exception):
    """The coordinator refused or failed; `status` is the HTTP status, 0 for a failure in mid-stream."""

    def __init__(
        self, status: int, error: dict[str, Any] | str | None, *, retry_after: float | None = None
    ) -> None:
        fields = error if isinstance(error, dict) else {"message": error or "no message"}
        super().__init__(
            f"{fields.get('message')} (status {status})" if status else str(fields.get("message"))
        )
        self.status = status
        self.message: str = str(fields.get("message"))
        self.code: str | None = fields.get("code")
        self.param: str | None = fields.get("param")
        self.retry_after = retry_after


class Interrupted(TallystickError):
    """A stream ended without its end: the answer is not complete, and nothing was charged."""


@dataclass(slots=True)
class Answer:
    """An answer with its proof: who served it, what it cost, and the receipts behind that."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    charge: NanoUsd
    job_id: bytes
    nodes: tuple[str, ...]
    receipt_ids: tuple[str, ...]
    model: str
    consent: Consent | None = None
    """The consent that was signed for this answer, if the client has a wallet key."""

    @property
    def tokens(self) -> int:
        """All tokens that were billed, in and out."""
        return self.prompt_tokens + self.completion_tokens


def answer_from_json(body: dict[str, Any]) -> Answer:
    """Return the answer in a `chat.completion` object of a Tallystick coordinator."""
    choice = body["choices"][0]
    return _answer(
        body, choice["message"]["content"] or "", choice["finish_reason"], body["usage"], body["tallystick"]
    )


def _answer(
    body: dict[str, Any], text: str, finish: str | None, usage: dict[str, Any], proof: dict[str, Any]
) -> Answer:
    return Answer(
        text=text,
        finish_reason=finish,
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        charge=NanoUsd(int(proof["charge_nano_usd"])),
        job_id=to_bytes32(proof["job_id"]),
        nodes=tuple(part["node"] for part in proof["parts"]),
        receipt_ids=tuple(part["receipt"] for part in proof["parts"]),
        model=body["model"],
    )


@dataclass
class AnswerBuilder:
    """Takes the lines of an event stream and gives the pieces of text; at the end it has the answer."""

    pieces: list[str] = field(default_factory=list)
    answer: Answer | None = None
    _finish: str | None = None
    _usage: dict[str, Any] | None = None
    _proof: dict[str, Any] | None = None
    _last: dict[str, Any] | None = None

    def feed(self, line: str) -> str:
        """Return the text that `line` adds, possibly none.

        Raises Interrupted when the line carries the coordinator's error.
        """
        if not line.startswith("data:"):
            return ""
        data = line[5:].strip()
        if data == "[DONE]":
            self._complete()
            return ""
        chunk = json.loads(data)
        if "error" in chunk:
            raise Interrupted(0, chunk["error"])
        return self._take(chunk)

    def close(self) -> Answer:
        """Return the answer. Raises Interrupted if the stream stopped before its end."""
        if self.answer is None:
            raise Interrupted(
                0, "the stream was cut before its end; nothing was charged for an unfinished answer"
            )
        return self.answer

    def _take(self, chunk: dict[str, Any]) -> str:
        self._last = chunk
        self._usage = chunk.get("usage") or self._usage
        self._proof = chunk.get("tallystick") or self._proof
        text = ""
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            self._finish = choice.get("finish_reason") or self._finish
        self.pieces.append(text)
        return text

    def _complete(self) -> None:
        if self._last is None or self._usage is None or self._proof is None:
            raise Interrupted(0, "the stream ended without its usage and proof")
        self.answer = _answer(self._last, "".join(self.pieces), self._finish, self._usage, self._proof)


def chat_body(
    model: str, messages: str | Iterable[dict[str, Any]], *, stream: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the body of a chat completion; a plain string is one user message."""
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body: dict[str, Any] = {"model": model, "messages": turns, **options}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body
