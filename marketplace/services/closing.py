"""The end of a job: its money in one durable step, then the word to the nodes, then the last event."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from marketplace.domain.errors import Unavailable
from marketplace.domain.jobs import Completed, JobState, Part
from marketplace.domain.receipts import TakenReceipt
from marketplace.services.desk import Desk
from marketplace.services.goodwill import SPENT
from marketplace.services.taking import notice
from marketplace.storage.failpoints import reach
from tallystick.protocol.frames import ReceiptRefused
from tallystick.protocol.ids import JobId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import Finish, receipt_charge

log = structlog.get_logger(__name__)

T = TypeVar("T")

PAUSES = (0.1, 0.5, 2.0)
"""Seconds before the books are tried again; a charge is not given up because a disk was busy."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended; the counts are of tokens that the answer has."""

    finish: Finish
    stop: str
    prompt_tokens: int
    output_tokens: int


async def capture(desk: Desk, job_id: JobId, taken: Sequence[TakenReceipt], outcome: Outcome) -> Completed:
    """Charge the signed parts, tell their nodes, and return the job's last event."""

    async def step() -> int:
        return await desk.till.capture(
            job_id,
            taken,
            finish=outcome.finish,
            prompt_tokens=outcome.prompt_tokens,
            output_tokens=outcome.output_tokens,
            now_ms=desk.clock.now_ms(),
        )

    async def charged() -> int | None:
        row = await desk.till.find_job(job_id)
        return row.charge if row is not None and row.state == JobState.DONE else None

    parts = tuple(_part(one) for one in taken)
    charge = await _durably(step, charged)
    _tell(desk, taken)
    reach("dispatch.told")
    return Completed(
        finish=outcome.finish,
        stop=outcome.stop,
        prompt_tokens=outcome.prompt_tokens,
        output_tokens=outcome.output_tokens,
        charge=NanoUsd(charge),
        parts=parts,
    )


async def release(desk: Desk, job_id: JobId, taken: Sequence[TakenReceipt], reason: str) -> None:
    """Give the hold back, have the treasury pay the signed parts within its budget, and tell their nodes.

    If it raises, the budget is as before: whoever tries again spends it then.
    """
    goodwill = desk.late.goodwill
    paid = [one for one in taken if goodwill.spend(one.operator, receipt_charge(one.signed.receipt))]

    async def step() -> bool:
        await desk.till.release(job_id, paid, error=reason, now_ms=desk.clock.now_ms())
        return True

    async def released() -> bool | None:
        row = await desk.till.find_job(job_id)
        return True if row is not None and (row.state, row.error) == (JobState.FAILED, reason) else None

    log.warning("job_failed", job=job_id.hex(), reason=reason)
    try:
        await _durably(step, released)
    except Exception:  # whatever it was, nothing was paid
        for one in paid:
            goodwill.refund(one.operator, receipt_charge(one.signed.receipt))
        raise
    _tell(desk, paid)
    for one in taken:
        if one not in paid:
            log.warning("part_not_paid", operator=one.operator, job=job_id.hex(), reason=SPENT)
            desk.link.tell(one.signed.receipt.node, ReceiptRefused(receipt_id=one.id, reason=SPENT))


async def _durably(step: Callable[[], Awaitable[T]], came_to: Callable[[], Awaitable[T | None]]) -> T:
    """Return what `step` returns, tried again while the books are unavailable; it happens once at most.

    A commit can be in the books although its word was lost: `came_to` returns what `step` would have then.
    """
    doing = step

    async def again() -> T:
        done = await came_to()
        return await step() if done is None else done

    for pause in PAUSES:
        try:
            return await doing()
        except Unavailable as error:
            log.warning("books_unavailable", reason=error.message, again_in=pause)
            await asyncio.sleep(pause)
            doing = again
    return await doing()


def _tell(desk: Desk, taken: Sequence[TakenReceipt]) -> None:
    for one in taken:
        desk.link.tell(one.signed.receipt.node, notice(one))


def _part(taken: TakenReceipt) -> Part:
    receipt = taken.signed.receipt
    return Part(
        receipt_id=taken.id,
        node=receipt.node,
        operator=taken.operator,
        prompt_tokens=receipt.prompt_tokens,
        output_tokens=receipt.output_tokens,
        charge=receipt_charge(receipt),
    )
