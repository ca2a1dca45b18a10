"""Receipts that come when nobody waits for them: resent after a reconnect, or after a crash.

    in the books already  ──▶ the same answer again
    its job still runs    ──▶ answered when that has ended
    its job failed        ──▶ checked against what was streamed, and paid by the treasury
    its job expired       ──▶ the coordinator crashed, what was streamed is forgotten: paid, within the hold
    its job was completed ──▶ refused: others have signed for the answer, or it was given away

The last line is a protection: whoever is both consumer and node could otherwise vanish before signing, get
the tokens for nothing as a consumer, and be paid for them by the treasury as a node.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from marketplace.domain.attempts import Attempt
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import Conflict, MarketError, Refused
from marketplace.domain.jobs import JobState
from marketplace.domain.ports.clock import Clock
from marketplace.domain.receipt_checks import BadReceipt, Seen, check_receipt
from marketplace.services.goodwill import SPENT, Goodwill
from marketplace.services.taking import Taker, notice
from marketplace.services.till import Till
from tallystick.protocol.eip712 import receipt_digest
from tallystick.protocol.frames import Finished, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address, JobId, ReceiptId
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.receipts import receipt_charge

log = structlog.get_logger(__name__)

MOST_LOST = 2_000
MOST_DEFERRED = 16
"""Receipts of one running job that wait for its end."""

EXPIRED = "expired"
"""The error of a job that the reaper closed: its coordinator ended without closing it."""

Answer = ReceiptTaken | ReceiptRefused | None
Tell = Callable[[Address, ReceiptTaken | ReceiptRefused], object]


@dataclass(frozen=True, slots=True)
class _Lost:
    attempt: Attempt
    model: CatalogModel


@dataclass(frozen=True, slots=True)
class _Deferred:
    node: Address
    operator: Address
    finished: Finished


class LateBook:
    """Remembers the attempts that were lost, and judges what their nodes bring later."""

    def __init__(
        self,
        till: Till,
        taker: Taker,
        clock: Clock,
        *,
        block_number: Callable[[], int],
        tell: Tell,
        goodwill: Goodwill | None = None,
    ) -> None:
        self.goodwill = goodwill or Goodwill(clock)
        """What the treasury pays for parts of answers that failed; dispatch draws on it too."""
        self._till = till
        self._taker = taker
        self._clock = clock
        self._block_number = block_number
        self._tell = tell
        self._lost: OrderedDict[tuple[bytes, int], _Lost] = OrderedDict()
        self._running: dict[bytes, list[_Deferred]] = {}
        self._barred: OrderedDict[tuple[bytes, int], str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def job_started(self, job_id: JobId) -> None:
        """From now on receipts of this job wait for its end."""
        self._running[job_id] = []

    def job_ended(self, job_id: JobId) -> None:
        """Answer what came while the job ran."""
        for deferred in self._running.pop(job_id, ()):
            self._spawn(self._answer_deferred(deferred))

    def remember(self, attempt: Attempt, model: CatalogModel) -> None:
        """Keep what a lost attempt had streamed."""
        key = (attempt.job.job_id, attempt.job.attempt)
        self._lost[key] = _Lost(attempt, model)
        while len(self._lost) > MOST_LOST:
            self._lost.popitem(last=False)

    def bar(self, attempt: Attempt, reason: str) -> None:
        """Take no receipt of this attempt: its node has contradicted itself."""
        self._barred[attempt.job.job_id, attempt.job.attempt] = reason
        while len(self._barred) > MOST_LOST:
            self._barred.popitem(last=False)

    async def answer(self, node: Address, operator: Address, finished: Finished) -> Answer:
        """Return what to tell `node`; None leaves the receipt pending there."""
        receipt = finished.receipt.receipt
        receipt_id = receipt_digest(self._taker.domain, receipt)
        known = await self._till.find_taken(receipt_id)
        if known is not None:
            return self._taker.again(known)
        waiting = self._running.get(receipt.job_id)
        if waiting is not None:
            if len(waiting) < MOST_DEFERRED:
                waiting.append(_Deferred(node, operator, finished))
            return None
        try:
            self._check(node, receipt_id, finished)
            return await self._take(operator, receipt_id, finished)
        except (BadReceipt, Refused) as error:
            if isinstance(error, Conflict) and error.code == "job_running":
                return None
            log.info("late_receipt_refused", node=node, job=receipt.job_id.hex(), reason=str(error))
            return ReceiptRefused(receipt_id=receipt_id, reason=str(error)[:300])

    async def close(self) -> None:
        """Wait for the answers that are on their way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def _check(self, node: Address, receipt_id: ReceiptId, finished: Finished) -> None:
        """Raise BadReceipt unless this is the node's own word about what was streamed."""
        receipt = finished.receipt.receipt
        key = (receipt.job_id, receipt.attempt)
        if key in self._barred:
            raise BadReceipt(self._barred[key])
        if receipt.node != node:
            raise BadReceipt("the receipt is another node's")
        if receipt.output_tokens == 0:
            raise BadReceipt("no token was delivered: nothing is owed")
        lost = self._lost.get(key)
        if lost is not None:
            seen = Seen(self._clock.now_ms(), self._block_number())
            lost.attempt.cancelled = True  # whoever lost us may have stopped by itself
            check_receipt(lost.attempt, finished, lost.model, self._taker.domain, seen)
        elif not _is_signed(receipt_id, finished):
            raise BadReceipt("the signature is not the node's")

    async def _take(self, operator: Address, receipt_id: ReceiptId, finished: Finished) -> Answer:
        receipt = finished.receipt.receipt
        job = await self._till.find_job(JobId(receipt.job_id))
        if job is not None and job.state == JobState.DONE:
            raise BadReceipt("the answer was completed without this receipt")
        if job is not None and job.state == JobState.FAILED:
            is_remembered = (receipt.job_id, receipt.attempt) in self._lost
            if not is_remembered and job.error != EXPIRED:
                raise BadReceipt("nothing is known of this attempt")
            if not self.goodwill.spend(operator, receipt_charge(receipt)):
                raise BadReceipt(SPENT)
        now = self._clock.now_ms()
        taken = self._taker.take(finished.receipt, receipt_id, operator, now)
        charge = await self._till.take_late(taken, now)
        log.info("late_receipt_taken", node=receipt.node, job=receipt.job_id.hex(), charge=charge)
        return notice(taken)

    async def _answer_deferred(self, deferred: _Deferred) -> None:
        try:
            answer = await self.answer(deferred.node, deferred.operator, deferred.finished)
        except MarketError:
            log.exception("late_receipt_unanswered", node=deferred.node)
            return
        if answer is not None:
            self._tell(deferred.node, answer)

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_signed(receipt_id: ReceiptId, finished: Finished) -> bool:
    try:
        return recover(receipt_id, finished.receipt.signature) == finished.receipt.receipt.node
    except BadSignature:
        return False
