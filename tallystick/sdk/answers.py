"""What a chat completion becomes on the client's side, whole or as a stream of pieces."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tallystick.consents import Consent
from tallystick.protocol.ids import WireAddress, WireU32, to_bytes32
from tallystick.protocol.money import NanoUsd

_Hash = Annotated[str, Meta(pattern=r"\A0x[0-9a-f]{64}\Z")]
_Decimal = Annotated[str, Meta(pattern=r"\A[0-9]{1,19}\Z")]


class _Part(msgspec.Struct):
    node: WireAddress
    receipt: _Hash


class _Proof(msgspec.Struct):
    job_id: _Hash
    charge_nano_usd: _Decimal
    parts: tuple[_Part, ...]


class _Usage(msgspec.Struct):
    prompt_tokens: WireU32
    completion_tokens: WireU32


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Piece(msgspec.Struct):
    delta: _Message
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    """A `chat.completion` with this market's proof."""

    choices: Annotated[tuple[_Choice, ...], Meta(min_length=1)]
    usage: _Usage
    tallystick: _Proof
    model: str


class _Chunk(msgspec.Struct):
    """One event of a stream; the last ones have usage and proof, a failed one only `error`."""

    choices: tuple[_Piece, ...] = ()
    usage: _Usage | None = None
    tallystick: _Proof | None = None
    model: str = ""
    error: dict[str, Any] | str | None | UnsetType = UNSET


_read_chunk = msgspec.json.Decoder(_Chunk).decode


MAX_TEXT: Final = 16 * 1024 * 1024
"""Characters of one answer; coordinators of ours end one long before."""


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


def answer_from_json(body: Any) -> Answer:
    """Return the answer in a `chat.completion` object of a Tallystick coordinator.

    Raises TallystickError for what is none.
    """
    try:
        whole = msgspec.convert(body, _Whole)
    except (msgspec.ValidationError, RecursionError) as error:
        raise TallystickError(0, f"the coordinator's answer is not one: {error}") from error
    choice = whole.choices[0]
    return _answer(
        whole.model, choice.message.content or "", choice.finish_reason, whole.usage, whole.tallystick
    )


def _answer(model: str, text: str, finish: str | None, usage: _Usage, proof: _Proof) -> Answer:
    return Answer(
        text=text,
        finish_reason=finish,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        charge=NanoUsd(int(proof.charge_nano_usd)),
        job_id=to_bytes32(proof.job_id),
        nodes=tuple(part.node for part in proof.parts),
        receipt_ids=tuple(part.receipt for part in proof.parts),
        model=model,
    )


@dataclass
class AnswerBuilder:
    """Takes the lines of an event stream and gives the pieces of text; at the end it has the answer."""

    pieces: list[str] = field(default_factory=list)
    answer: Answer | None = None
    _finish: str | None = None
    _usage: _Usage | None = None
    _proof: _Proof | None = None
    _model: str = ""
    _length: int = 0

    def feed(self, line: str) -> str:
        """Return the text that `line` adds, possibly none.

        Raises Interrupted when the line carries the coordinator's error, or is not a line of an answer.
        """
        if not line.startswith("data:"):
            return ""
        data = line[5:].strip()
        if data == "[DONE]":
            self._complete()
            return ""
        try:
            chunk = _read_chunk(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Interrupted(0, f"the coordinator sent what is no part of an answer: {error}") from error
        if chunk.error is not UNSET:
            raise Interrupted(0, chunk.error)
        return self._take(chunk)

    def close(self) -> Answer:
        """Return the answer. Raises Interrupted if the stream stopped before its end."""
        if self.answer is None:
            raise Interrupted(
                0, "the stream was cut before its end; nothing was charged for an unfinished answer"
            )
        return self.answer

    def _take(self, chunk: _Chunk) -> str:
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        self._proof = chunk.tallystick or self._proof
        for choice in chunk.choices:
            self._finish = choice.finish_reason or self._finish
        text = "".join(choice.delta.content or "" for choice in chunk.choices)
        self._length += len(text)
        if self._length > MAX_TEXT:
            raise Interrupted(0, f"the answer is over {MAX_TEXT} characters")
        if text:
            self.pieces.append(text)
        return text

    def _complete(self) -> None:
        if self._usage is None or self._proof is None:
            raise Interrupted(0, "the stream ended without its usage and proof")
        self.answer = _answer(self._model, "".join(self.pieces), self._finish, self._usage, self._proof)


def chat_body(
    model: str, messages: str | Iterable[dict[str, Any]], *, stream: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the body of a chat completion; a plain string is one user message."""
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body: dict[str, Any] = {"model": model, "messages": turns, **options}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body
