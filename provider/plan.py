"""What the agent does about an offered job, decided without doing it."""

from dataclasses import dataclass

from tallystick.protocol.frames import Job
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class Served:
    """A model as the agent offers it now; prices in nano-dollars per token."""

    input_price: NanoUsd
    output_price: NanoUsd
    slots: int
    running: int
    paused: bool
    context_length: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Run it."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Say no, with a code of `frames.Failed` and a message for the coordinator's log."""

    code: str
    message: str


def decide(
    job: Job, served: Served | None, *, draining: bool, known: bool, max_fee_bps: int
) -> Accept | Refuse:
    """Return whether to run `job`; `served` is its model here, None if it is not served.

    `known` says that this attempt runs, or that a receipt for it was signed before.
    """
    match served:
        case _ if known:
            return Refuse("replay", "a receipt for this attempt was signed already")
        case _ if draining:
            return Refuse("draining", "the node is leaving")
        case None:
            return Refuse("unknown_model", "the node does not serve this model")
        case Served(paused=True):
            return Refuse("busy", "the model is paused")
        case Served(running=running, slots=slots) if running >= slots:
            return Refuse("busy", f"all {slots} slots are taken")
    return _terms(job, served, max_fee_bps)


def _terms(job: Job, served: Served, max_fee_bps: int) -> Accept | Refuse:
    if job.input_price < served.input_price or job.output_price < served.output_price:
        return Refuse(
            "price",
            f"offered {job.input_price} in and {job.output_price} out, "
            f"asked {served.input_price} and {served.output_price} nano-dollars per token",
        )
    if job.fee_bps > max_fee_bps:
        return Refuse(
            "price", f"the market's share is {job.fee_bps} basis points, at most {max_fee_bps} are accepted"
        )
    if job.first_position != len(job.resume_ids):
        return Refuse("malformed", "the first position is not the number of tokens drawn before")
    if len(job.prompt_ids) + len(job.resume_ids) >= served.context_length:
        return Refuse(
            "too_long",
            f"{len(job.prompt_ids) + len(job.resume_ids)} tokens do not fit a context of "
            f"{served.context_length}",
        )
    return Accept()
