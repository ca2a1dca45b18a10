"""A job: what a dialect asks for, how it ends, and the events in between.

accepted ──▶ running ──▶ done        (hold captured: the signed parts are charged)
    │           │  ▲
    │           ▼  │ another node goes on at the next position
    │         handed over
    └────────▶ failed                (hold released: the consumer pays nothing)
"""

from dataclasses import dataclass, field
from enum import StrEnum

from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.ids import Address, JobId, ModelId, ReceiptId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish


class JobState(StrEnum):
    """Where a job's hold stands; `ACCEPTED` is the only state that has one."""

    ACCEPTED = "accepted"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller wants of the node; None and empty mean that anything will do.

    Prices are in nano-dollars per token.
    """

    max_input_price: NanoUsd | None = None
    max_output_price: NanoUsd | None = None
    region: str = ""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One piece of work as a dialect hands it over, already validated and tokenised."""

    account_id: str
    key_id: str
    payer: Address
    """The address on the receipts: the wallet's own, or the treasury's for an account on credit."""
    model_id: ModelId
    model_name: str
    prompt_ids: tuple[int, ...]
    prompt_text: str
    parameters: Parameters
    caller_seed: int | None = None
    top_logprobs: int = -1
    wishes: Wishes = field(default_factory=Wishes)
    priority: int = 0


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A request with its id, its seed, the hold that was set aside and the prices that are fixed for it."""

    id: JobId
    request: JobRequest
    seed: bytes
    salt: bytes
    input_price: NanoUsd
    output_price: NanoUsd
    fee_bps: int
    hold: NanoUsd
    accepted_at_ms: int


@dataclass(frozen=True, slots=True)
class Delta:
    """Some tokens of the answer, in order; `text` may lag the ids."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    node: Address


@dataclass(frozen=True, slots=True)
class Part:
    """One node's signed part of a finished job."""

    receipt_id: ReceiptId
    node: Address
    operator: Address
    prompt_tokens: int
    output_tokens: int
    charge: NanoUsd


@dataclass(frozen=True, slots=True)
class Completed:
    """The last event of a job that was answered: how it ended and what it cost, exactly."""

    finish: Finish
    stop: str
    prompt_tokens: int
    output_tokens: int
    charge: NanoUsd
    parts: tuple[Part, ...]


JobEvent = Delta | Completed
