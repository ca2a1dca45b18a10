"""Frames between a coordinator and a node: msgpack, one websocket message carries a list of them.

    coordinator                     node
    Challenge            ──────▶
                         ◀──────    Hello (signs the challenge)
                         ◀──────    or Goodbye, if the two do not fit
    Welcome | Goodbye    ──────▶
    BlobRequest          ──────▶                      (a tokenizer that the coordinator has not seen yet)
                         ◀──────    Blob …
    Job                  ──────▶
                         ◀──────    Tokens …
                         ◀──────    Finished | Failed
    ReceiptTaken         ──────▶
    Acknowledged         ──────▶                      (when work has matured)
    Heartbeat            ◀─────▶    Heartbeat, Offers, Draining

Unknown fields are tolerated, so that a newer peer may add some; unknown types are refused.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from tallystick.protocol.ids import WireAddress, WireBytes32, WireSignature, WireU16, WireU32, WireU63
from tallystick.protocol.parameters import MAX_STOP_CHARACTERS, Parameters
from tallystick.protocol.receipts import SignedReceipt

PROTOCOL_VERSION: Final = 1
"""Peers of another version do not understand each other."""
PROTOCOL_MINOR: Final = 1
"""Peers of another minor version do; the younger one does without what the older does not have.

1: `minor` in Challenge and Hello, `notice` in Welcome, and a Goodbye of the node's in place of a Hello.
"""
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_FRAMES: Final = 4096
BLOB_CHUNK_BYTES: Final = 512 * 1024

# Finite, so that JSON can hold it: no NaN, no infinity. Rounding may take it a little over 0.
WireLogprob = Annotated[float, msgspec.Meta(ge=-1e30, le=1.0)]
# One of the job's stop strings; dialects let none through that is longer.
WireStop = Annotated[str, msgspec.Meta(max_length=MAX_STOP_CHARACTERS)]


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """The root of all frames; `t` tells them apart."""


class Challenge(Frame, tag="challenge", frozen=True, kw_only=True):
    """What a node must sign to prove its key, and whose coordinator this is."""

    version: WireU32
    nonce: WireBytes32
    coordinator: WireAddress
    chain_id: WireU63
    ledger: WireAddress
    stake: WireAddress
    fee_bps: WireU16
    software: str
    minor: WireU32 | UnsetType = UNSET


class ModelOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a node serves, and at what price (nano-dollars per token)."""

    name: str
    model_id: WireBytes32
    manifest: bytes
    input_price: WireU63
    output_price: WireU63
    slots: WireU32
    paused: bool = False


class Hello(Frame, tag="hello", frozen=True, kw_only=True):
    """Who the node is. `signature` is over `hello_digest(challenge)` by the node key."""

    version: WireU32
    software: str
    node: WireAddress
    operator: WireAddress
    signature: WireSignature
    models: tuple[ModelOffer, ...]
    region: str = ""
    hardware: str = ""
    engine: str = ""
    minor: WireU32 | UnsetType = UNSET


class Welcome(Frame, tag="welcome", frozen=True, kw_only=True):
    """The node is in; it sends a Heartbeat at least every `heartbeat_ms`. `notice` is for its owner."""

    session: bytes
    heartbeat_ms: WireU32
    block_number: WireU63
    epoch: WireU63
    notice: str | UnsetType = UNSET


class Goodbye(Frame, tag="goodbye", frozen=True, kw_only=True):
    """The connection ends, and why; `retry` says whether trying again can help."""

    code: str
    message: str
    retry: bool


class Heartbeat(Frame, tag="heartbeat", frozen=True, kw_only=True):
    """A sign of life. The coordinator's carries the chain's height and its epoch, the node's its load.

    `notice` is for the node's owner: what became of something that the node offered.
    """

    at_ms: WireU63
    block_number: WireU63 = 0
    epoch: WireU63 = 0
    running: WireU32 = 0
    waiting: WireU32 = 0
    notice: str | UnsetType = UNSET


class Offers(Frame, tag="offers", frozen=True, kw_only=True):
    """The node's models and prices, anew and whole."""

    models: tuple[ModelOffer, ...]


class Draining(Frame, tag="draining", frozen=True):
    """The node takes no new jobs and will leave when the running ones end."""


class BlobRequest(Frame, tag="blob_request", frozen=True, kw_only=True):
    """Asks for a file of a manifest by its SHA-256."""

    sha256: WireBytes32


class Blob(Frame, tag="blob", frozen=True, kw_only=True):
    """A piece of a file, at most BLOB_CHUNK_BYTES; `total` 0 means the node does not have it."""

    sha256: WireBytes32
    offset: WireU63
    total: WireU63
    data: bytes


class Job(Frame, tag="job", frozen=True, kw_only=True):
    """One attempt at a job.

    `prompt_ids` are the canonical prompt; `prompt_text` is the same for engines that take text, and empty
    where the consumer gave ids.
    `resume_ids` were drawn (and signed for, or not) by earlier nodes; the first new token has position
    `first_position`, which is `len(resume_ids)`; `resume_text_bytes` of their text are delivered already.
    `bill_prompt` says whether this part's receipt bills the prompt. `top_logprobs` −1 means that no
    likelihoods are wanted.
    """

    job_id: WireBytes32
    attempt: WireU32
    model_id: WireBytes32
    account: WireAddress
    prompt_ids: tuple[WireU32, ...]
    prompt_text: str
    salt: WireBytes32
    parameters: Parameters
    job_seed: WireBytes32
    resume_ids: tuple[WireU32, ...] = ()
    resume_text_bytes: WireU32 = 0
    first_position: WireU32 = 0
    bill_prompt: bool = True
    input_price: WireU63
    output_price: WireU63
    fee_bps: WireU16
    top_logprobs: int = -1
    priority: int = 0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's log-likelihood (natural, at temperature 1) and the likeliest alternatives at its position."""

    logprob: WireLogprob
    top: tuple[tuple[WireU32, WireLogprob], ...] = ()


class Tokens(Frame, tag="tokens", frozen=True, kw_only=True):
    """Tokens `position …` of an attempt, at most 4096, and the text that they complete (possibly empty)."""

    job_id: WireBytes32
    attempt: WireU32
    position: WireU32
    ids: tuple[WireU32, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(Frame, tag="finished", frozen=True, kw_only=True):
    """An attempt has ended; the node signs for its part. `stop` is the stop string that was met, if any."""

    receipt: SignedReceipt
    stop: WireStop = ""


class Failed(Frame, tag="failed", frozen=True, kw_only=True):
    """An attempt ended without a receipt.

    `code`: busy, draining; unknown_model, price, malformed, replay; request, too_long (the node thinks that
    nobody could do it); engine.
    """

    job_id: WireBytes32
    attempt: WireU32
    code: str
    message: str


class Cancel(Frame, tag="cancel", frozen=True, kw_only=True):
    """Stop an attempt; the node answers with Finished (finish CANCELLED) for what it made."""

    job_id: WireBytes32
    attempt: WireU32


class ReceiptTaken(Frame, tag="receipt_taken", frozen=True, kw_only=True):
    """The coordinator's signature `Taken(receiptHash, epoch)`: it is to settle the receipt by that epoch."""

    receipt_id: WireBytes32
    epoch: WireU63
    signature: WireSignature


class ReceiptRefused(Frame, tag="receipt_refused", frozen=True, kw_only=True):
    """The coordinator will not take a receipt, and why; the node keeps it and stops resending it."""

    receipt_id: WireBytes32
    reason: str


class Acknowledged(Frame, tag="acknowledged", frozen=True, kw_only=True):
    """A cheque: the coordinator's signature under what the operator has earned so far."""

    account: WireAddress
    epoch: WireU63
    earned: WireU63
    signature: WireSignature


AnyFrame = (
    Challenge
    | Hello
    | Welcome
    | Goodbye
    | Heartbeat
    | Offers
    | Draining
    | BlobRequest
    | Blob
    | Job
    | Tokens
    | Finished
    | Failed
    | Cancel
    | ReceiptTaken
    | ReceiptRefused
    | Acknowledged
)


class BadFrame(ValueError):
    """A message that is not a list of known frames within the size limits; the peer is at fault."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyFrame])


class _Named(msgspec.Struct, frozen=True):
    """As much of a frame as everybody understands; the rest is skipped and not built: strangers send it."""

    version: int | None = None


_versions = msgspec.msgpack.Decoder(Annotated[list[_Named], msgspec.Meta(max_length=MAX_FRAMES)])


def encode_frames(frames: Sequence[AnyFrame]) -> bytes:
    """Return one websocket message that carries `frames` in order."""
    return _encoder.encode(frames)


def decode_frames(message: bytes) -> list[AnyFrame]:
    """Return the frames in a websocket message.

    Raises BadFrame for an oversized message, too many frames, an unknown type or a wrong field.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise BadFrame(f"a message of {len(message)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    try:
        frames = _decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"not a list of frames: {error}") from error
    if len(frames) > MAX_FRAMES:
        raise BadFrame(f"{len(frames)} frames in one message exceed the limit of {MAX_FRAMES}")
    return frames


def minor_of(peer: Challenge | Hello) -> int:
    """Return a peer's minor version; those of before there was any are 0."""
    return 0 if peer.minor is UNSET else peer.minor


def version_named(message: bytes) -> int | None:
    """Return the version that a message's first frame names, also where nothing else of it is understood.

    None if it names none.
    """
    try:
        found = _versions.decode(message[:MAX_MESSAGE_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found[0].version if found else None
