"""A job's answer as it grows over one or more attempts, each at one node. Pure but for growing.

Answer  ◀── absorbs ──  Attempt 0 (node A: tokens 0–15, lost)
        ◀── absorbs ──  Attempt 1 (node B: goes on at 16, signs for 16–…)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Final

from marketplace.domain.catalog import CatalogModel
from marketplace.domain.jobs import AcceptedJob, Delta
from marketplace.domain.ports.link import NodeView
from tallystick.models.reading import ID_BYTES, MAX_TEXT_BYTES, Reader, list_bytes, reader_of
from tallystick.models.tokenizer import BadTokenizer, Detokenizer
from tallystick.protocol.commitments import opaque_output_commitment, parameters_hash, prompt_commitment
from tallystick.protocol.eip712 import offer_hash
from tallystick.protocol.frames import Job, Tokens
from tallystick.protocol.ids import ZERO_ADDRESS, Address
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish, Offer

MAX_ANSWER_TOKENS: Final = 2**17
"""Whoever asks for more gets so many. The largest models make as many."""
MAX_FRAME_TOKENS: Final = 4096
MAX_ALTERNATIVES: Final = 32
"""To one token; OpenAI's clients ask for 20 at most. Each is shown with its text."""
MAX_TEXT_BYTES_PER_TOKEN: Final = 1024


class Misbehaved(Exception):
    """The node broke the rules of the attempt; what it says is worth nothing from here on."""


@dataclass(slots=True)
class Answer:
    """What the consumer has been given so far."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    text_bytes: int = 0
    prompt_billed: bool = False
    last_node: Address = ZERO_ADDRESS
    """Who delivered last."""
    reader: Reader | None = None
    """What has read the ids as they came."""

    def absorb(self, attempt: "Attempt") -> None:
        """Add what an attempt delivered."""
        self.ids += attempt.ids
        self.text += attempt.text
        self.text_bytes += attempt.text_bytes
        self.last_node = attempt.node.address
        self.reader = attempt.reader

    def read(self, tokenizer: Detokenizer) -> str:
        """Return the text of the ids, delivered or not. Raises BadTokenizer."""
        return (self.reader or reader_of(tokenizer, self.ids)).text()


@dataclass(slots=True)
class Attempt:
    """One node's try at a job, and what it has delivered."""

    job: Job
    node: NodeView
    prompt_commitment: bytes
    parameters_hash: bytes
    offer_hash: bytes
    sent_at_ms: int
    sent_at_block: int
    text_before: str
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    text_bytes: int = 0
    first_token_at_ms: int | None = None
    cancelled: bool = False
    """Whether the coordinator asked the node to stop."""
    reader: Reader | None = None
    """What has read the answer's ids as they came, those of earlier nodes too."""
    _text_commitment: bytes | None = field(default=None, init=False, repr=False)

    @property
    def text(self) -> str:
        """The text that this attempt delivered."""
        return "".join(self.texts)

    def text_commitment(self) -> bytes:
        """Return the commitment to the text, hashed once: a node may bring many receipts for a long one."""
        if self._text_commitment is None:
            self._text_commitment = opaque_output_commitment(self.job.salt, self.text.encode())
        return self._text_commitment

    def kept_bytes(self) -> int:
        """Return about how much memory the attempt takes: prompt, texts, ids, and what has read them."""
        job = self.job
        ids = len(job.prompt_ids) + len(job.resume_ids) + len(self.ids) + 4 * len(job.parameters.logit_bias)
        texts = getsizeof(job.prompt_text) + getsizeof(self.text_before) + list_bytes(self.texts)
        read = 0 if self.reader is None else self.reader.kept_bytes()
        return ID_BYTES * ids + texts + read

    def accept(self, frame: Tokens, tokenizer: Detokenizer | None = None) -> Delta:
        """Add a frame and return what it delivers; `tokenizer` reads its ids now and not all at the end.

        Raises Misbehaved for tokens out of order, beyond what was asked for, or without content.
        """
        job = self.job
        due = job.first_position + len(self.ids)
        if frame.position != due:
            raise Misbehaved(f"tokens at position {frame.position} came where {due} was due")
        if due + len(frame.ids) > job.parameters.max_tokens:
            raise Misbehaved(f"more than the {job.parameters.max_tokens} tokens that were asked for")
        if len(frame.ids) > MAX_FRAME_TOKENS:
            raise Misbehaved(f"{len(frame.ids)} tokens in one frame; {MAX_FRAME_TOKENS} are the most")
        if not frame.ids and not frame.text:
            raise Misbehaved("a frame without tokens and text")
        if job.top_logprobs >= 0 and len(frame.logprobs) != len(frame.ids):
            raise Misbehaved(f"{len(frame.logprobs)} likelihoods for {len(frame.ids)} tokens")
        if any(len(one.top) > MAX_ALTERNATIVES for one in frame.logprobs):
            raise Misbehaved(f"more than {MAX_ALTERNATIVES} alternatives to a token")
        length = self.text_bytes + len(frame.text.encode())
        self._check_length(length, due + len(frame.ids))
        self._read(frame.ids, tokenizer)
        self.text_bytes = length
        self._text_commitment = None
        self.ids += frame.ids
        self.texts.append(frame.text)
        logprobs = frame.logprobs if job.top_logprobs >= 0 else ()
        return Delta(frame.ids, frame.text, logprobs, self.node.address)

    def _read(self, ids: Sequence[int], tokenizer: Detokenizer | None) -> None:
        if tokenizer is None:
            self.reader = None
            return
        try:
            if self.reader is None:
                self.reader = reader_of(tokenizer, self.job.resume_ids)
            self.reader.add(ids)
        except BadTokenizer as error:
            raise Misbehaved(str(error)) from error

    def _check_length(self, text_bytes: int, tokens: int) -> None:
        """Raise Misbehaved if the answer's text is longer than its tokens so far can be."""
        job = self.job
        if not job.prompt_ids:  # an engine may show no ids at all
            tokens = job.parameters.max_tokens
        whole = job.resume_text_bytes + text_bytes
        if whole > min(MAX_TEXT_BYTES_PER_TOKEN * (tokens + 1), MAX_TEXT_BYTES):
            raise Misbehaved("more text than its tokens can stand for")


@dataclass(frozen=True, slots=True)
class Commitments:
    """The hashes that all attempts at a job share."""

    prompt: bytes
    parameters: bytes


def commitments_of(accepted: AcceptedJob) -> Commitments:
    """Return what every offer for the job commits to."""
    request = accepted.request
    return Commitments(
        prompt_commitment(accepted.salt, request.prompt_ids), parameters_hash(request.parameters)
    )


def next_attempt(
    accepted: AcceptedJob,
    answer: Answer,
    commitments: Commitments,
    *,
    number: int,
    node: NodeView,
    now_ms: int,
    block_number: int,
) -> Attempt:
    """Return the attempt that goes on where the answer stands, with the frame that starts it."""
    request = accepted.request
    job = Job(
        job_id=accepted.id,
        attempt=number,
        model_id=request.model_id,
        account=request.payer,
        prompt_ids=request.prompt_ids,
        prompt_text=request.prompt_text,
        salt=accepted.salt,
        parameters=request.parameters,
        job_seed=accepted.seed,
        resume_ids=tuple(answer.ids),
        resume_text_bytes=answer.text_bytes,
        first_position=len(answer.ids),
        bill_prompt=not answer.prompt_billed,
        input_price=accepted.input_price,
        output_price=accepted.output_price,
        fee_bps=accepted.fee_bps,
        top_logprobs=request.top_logprobs,
        priority=request.priority,
    )
    offer = Offer(
        job_id=job.job_id,
        attempt=number,
        prompt_commitment=commitments.prompt,
        parameters_hash=commitments.parameters,
        job_seed=job.job_seed,
        first_position=job.first_position,
        input_price=job.input_price,
        output_price=job.output_price,
    )
    return Attempt(
        job=job,
        node=node,
        prompt_commitment=commitments.prompt,
        parameters_hash=commitments.parameters,
        offer_hash=offer_hash(offer),
        sent_at_ms=now_ms,
        sent_at_block=block_number,
        text_before=answer.text,
        reader=None if answer.reader is None else answer.reader.copy(),
    )


@dataclass(frozen=True, slots=True)
class Whole:
    """How an answer ends that is complete as it stands, and the text that is still to be delivered."""

    finish: Finish
    stop: str
    rest: str


def as_whole(answer: Answer, parameters: Parameters, model: CatalogModel, prompt_tokens: int) -> Whole | None:
    """Return how the answer ends if it needs no further token; a node may be lost after its last one.

    None if tokens are missing, or if the text is not that of the ids.
    """
    if model.tokenizer is None or not answer.ids:
        return None
    try:
        text = answer.read(model.tokenizer)
    except BadTokenizer:
        return None
    stop = first_stop(text, parameters.stop)
    if stop:
        finish, text = Finish.STOP_STRING, text[: text.index(stop)]
    elif answer.ids[-1] in model.eos_ids:
        finish = Finish.EOS
    elif len(answer.ids) >= room(parameters, model, prompt_tokens):
        finish = Finish.LENGTH
    else:
        return None
    if not text.startswith(answer.text):
        return None
    return Whole(finish, stop, text[len(answer.text) :])


def first_stop(text: str, stops: tuple[str, ...]) -> str:
    """Return the stop string that `text` completes first, the longest of several; empty if there is none."""
    met = [(at + len(stop), -len(stop), stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    return min(met)[2] if met else ""


def room(parameters: Parameters, model: CatalogModel, prompt_tokens: int) -> int:
    """Return how many tokens the whole answer may have."""
    return min(parameters.max_tokens, model.context_length - prompt_tokens)


def text_is_of_tokens(answer: Answer, model: CatalogModel) -> bool:
    """Say whether another node can go on from here: the text so far is a beginning of the ids' text."""
    if model.tokenizer is None:
        return not answer.text
    try:
        return answer.read(model.tokenizer).startswith(answer.text)
    except BadTokenizer:
        return False
