"""Receipts that come when nobody waits for them: resent after a reconnect, or after a crash.

    its job still runs    ──▶ answered when that has ended, if the node has signed it
    in the books already  ──▶ the same answer again
    its job failed        ──▶ checked against what was streamed, and paid by the treasury
    its job expired       ──▶ the coordinator crashed, what was streamed is forgotten: paid, within the hold
    its job was completed ──▶ refused: others have signed for the answer, or it was given away

The last line is a protection: whoever is both consumer and node could otherwise vanish before signing, get
the tokens for nothing as a consumer, and be paid for them by the treasury as a node.

A node whose line comes and goes brings the same receipt several times at once. It is judged once, or the
treasury's budget would be spent several times for one part.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from marketplace.domain.attempts import Attempt
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import MarketError, Refused
from marketplace.domain.jobs import JobState
from marketplace.domain.ports.clock import Clock
from marketplace.domain.receipt_checks import BadReceipt, Seen, check_receipt, check_signed
from marketplace.domain.receipts import TakenReceipt
from marketplace.services.goodwill import SPENT, Goodwill
from marketplace.services.lost import MOST_LOST, LostAttempts
from marketplace.services.taking import Taker, notice
from marketplace.services.till import Till
from tallystick.protocol.eip712 import receipt_digest
from tallystick.protocol.frames import Finished, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address, JobId, ReceiptId
from tallystick.protocol.receipts import SignedReceipt, receipt_charge

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST_DEFERRED = 16
"""Receipts of one node, for one running job, that wait for its end."""

EXPIRED = "expired"
"""The error of a job that the reaper closed: its coordinator ended without closing it."""

Answer = ReceiptTaken | ReceiptRefused | None
Tell = Callable[[Address, ReceiptTaken | ReceiptRefused], object]


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
        self._lost = LostAttempts()
        self._running: dict[bytes, dict[ReceiptId, _Deferred]] = {}
        self._judging: dict[tuple[Address, ReceiptId], asyncio.Task[Answer]] = {}
        self._barred: OrderedDict[tuple[bytes, int], str] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()

    def job_started(self, job_id: JobId) -> None:
        """From now on receipts of this job wait for its end."""
        self._running[job_id] = {}

    def job_ended(self, job_id: JobId) -> None:
        """Answer what came while the job ran."""
        for deferred in self._running.pop(job_id, {}).values():
            self._spawn(self._answer_deferred(deferred))

    def remember(self, attempt: Attempt, model: CatalogModel) -> None:
        """Keep what a lost attempt had streamed; what is beyond the bounds of `lost` goes unpaid."""
        self._lost.remember(attempt, model)

    def bar(self, attempt: Attempt, reason: str) -> None:
        """Take no receipt of this attempt: its node has contradicted itself."""
        self._barred[attempt.job.job_id, attempt.job.attempt] = reason
        while len(self._barred) > MOST_LOST:
            self._barred.popitem(last=False)

    async def answer(self, node: Address, operator: Address, finished: Finished) -> Answer:
        """Return what to tell `node`; None leaves the receipt pending there.

        Copies that come meanwhile get the same answer, and a caller that is cancelled, because its node has
        left, does not tear the payment.
        """
        receipt_id = receipt_digest(self._taker.domain, finished.receipt.receipt)
        key = node, receipt_id
        judging = self._judging.get(key)
        if judging is None:
            judging = self._spawn(self._judge(node, operator, receipt_id, finished))
            self._judging[key] = judging
            judging.add_done_callback(lambda _: self._judging.pop(key, None))
        return await asyncio.shield(judging)

    async def close(self) -> None:
        """Wait for the answers that are on their way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _judge(
        self, node: Address, operator: Address, receipt_id: ReceiptId, finished: Finished
    ) -> Answer:
        job_id = finished.receipt.receipt.job_id
        try:
            # The books are looked into only afterwards: they know all that was paid when a job ended here.
            if job_id in self._running:
                self._check_word(node, finished)
                self._defer(_Deferred(node, operator, finished), receipt_id)
                return None
            known = await self._find_taken(receipt_id)
            if known is not None:
                return known
            self._check_word(node, finished)
            self._check_streamed(finished)
            return await self._take_once(operator, receipt_id, finished)
        except (BadReceipt, Refused) as error:
            log.info("late_receipt_refused", node=node, job=job_id.hex(), reason=str(error))
            return ReceiptRefused(receipt_id=receipt_id, reason=str(error)[:300])

    async def _take_once(self, operator: Address, receipt_id: ReceiptId, finished: Finished) -> Answer:
        """Have it paid; what was booked since the books were looked into is not refused."""
        try:
            return await self._take(operator, receipt_id, finished)
        except (BadReceipt, Refused):
            known = await self._find_taken(receipt_id)
            if known is None:
                raise
            return known

    async def _find_taken(self, receipt_id: ReceiptId) -> ReceiptTaken | None:
        known = await self._till.find_taken(receipt_id)
        return None if known is None else self._taker.again(known)

    def _defer(self, deferred: _Deferred, receipt_id: ReceiptId) -> None:
        """Keep a checked receipt until its job ends, once however often it comes.

        What is too much is left pending at its node, which brings it again. They are counted for each node,
        so that nobody takes the others' places.
        """
        job_id = deferred.finished.receipt.receipt.job_id
        waiting = self._running[job_id]
        theirs = sum(one.node == deferred.node for one in waiting.values())
        if receipt_id in waiting or theirs < MOST_DEFERRED:
            waiting[receipt_id] = deferred
        else:
            log.info("late_receipt_left_pending", node=deferred.node, job=job_id.hex())

    def _check_word(self, node: Address, finished: Finished) -> None:
        """Raise BadReceipt unless this is the node's own word, about an attempt that may be paid."""
        receipt = finished.receipt.receipt
        key = (receipt.job_id, receipt.attempt)
        if key in self._barred:
            raise BadReceipt(self._barred[key])
        if receipt.node != node:
            raise BadReceipt("the receipt is another node's")
        if receipt.output_tokens == 0:
            raise BadReceipt("no token was delivered: nothing is owed")
        check_signed(finished, self._taker.domain)

    def _check_streamed(self, finished: Finished) -> None:
        """Raise BadReceipt if something else was streamed, as far as that is remembered."""
        lost = self._lost.find(finished.receipt.receipt)
        if lost is not None:
            seen = Seen(self._clock.now_ms(), self._block_number())
            lost.attempt.cancelled = True  # whoever lost us may have stopped by itself
            check_receipt(lost.attempt, finished, lost.model, self._taker.domain, seen)

    async def _take(self, operator: Address, receipt_id: ReceiptId, finished: Finished) -> Answer:
        """Have it paid if its job failed; None while the books still have the job open."""
        receipt = finished.receipt.receipt
        job = await self._till.find_job(JobId(receipt.job_id))
        if job is None:
            raise BadReceipt(f"there is no job {receipt.job_id.hex()}")
        if job.state == JobState.ACCEPTED:
            return None
        if job.state == JobState.DONE:
            raise BadReceipt("the answer was completed without this receipt")
        if self._lost.find(receipt) is None and job.error != EXPIRED:
            raise BadReceipt("nothing is known of this attempt")
        taken = await self._pay(operator, receipt_id, finished.receipt)
        self._lost.forget(receipt)
        return notice(taken)

    async def _pay(self, operator: Address, receipt_id: ReceiptId, signed: SignedReceipt) -> TakenReceipt:
        """Have the treasury pay out of the operator's budget, which is as before if nothing is paid."""
        owed = receipt_charge(signed.receipt)
        if not self.goodwill.spend(operator, owed):
            raise BadReceipt(SPENT)
        now = self._clock.now_ms()
        try:
            taken = self._taker.take(signed, receipt_id, operator, now)
            charge = await self._till.take_late(taken, now)
        except Exception:  # whatever it was, nothing was paid
            self.goodwill.refund(operator, owed)
            raise
        receipt = signed.receipt
        log.info("late_receipt_taken", node=receipt.node, job=receipt.job_id.hex(), charge=charge)
        return taken

    async def _answer_deferred(self, deferred: _Deferred) -> None:
        try:
            answer = await self.answer(deferred.node, deferred.operator, deferred.finished)
        except MarketError:
            log.exception("late_receipt_unanswered", node=deferred.node)
            return
        if answer is not None:
            self._tell(deferred.node, answer)

    def _spawn(self, doing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
