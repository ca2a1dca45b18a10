"""Running a job: attempt after attempt until the answer is whole, then its money, then its last event.

    hold ─▶ attempt at a node ─▶ signed, final ────────────▶ capture ─▶ Completed
               ▲      │ handed over, lost, stalled, failed
               └──────┘ the next node goes on at that position
                      └ nobody left, or the text is not the tokens' ─▶ release ─▶ NodesFailed

The driver is a task of its own: a reader that stops reading, leaves or is cancelled cannot tear a step that
moves money.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from marketplace.domain.attempts import (
    Answer,
    Attempt,
    Misbehaved,
    Whole,
    as_whole,
    commitments_of,
    next_attempt,
    text_is_of_tokens,
)
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import Broken, MarketError, NodesFailed
from marketplace.domain.history import History
from marketplace.domain.jobs import AcceptedJob, Completed, Delta, Part
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import JobStream, NodeLost, NodeView, ProviderLink
from marketplace.domain.receipt_checks import BadReceipt, Seen, Tolerance, check_receipt
from marketplace.domain.receipts import TakenReceipt
from marketplace.services.choosing import Chooser
from marketplace.services.late import LateBook
from marketplace.services.running import RunningJob
from marketplace.services.stalls import StallWatch
from marketplace.services.taking import Taker, notice
from marketplace.services.till import Till
from tallystick.protocol.frames import Failed, Finished, ReceiptRefused, Tokens
from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import Finish, receipt_charge

log = structlog.get_logger(__name__)

BLAMELESS = frozenset({"busy", "draining"})
"""Refusals that say nothing against a node."""


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """Times in seconds."""

    max_attempts: int = 4
    first_token: float = 60.0
    stall: float = 15.0
    cancel: float = 10.0
    """How long a cancelled node may take to sign for what it made."""
    hold_expiry: float = 900.0
    queue: float = 10.0
    """How long a job waits for a free slot before it is refused."""
    failover: float = 5.0
    """How long a job that lost its node waits for another one."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What every driver works with. `block_number` tells the chain's height, 0 if it is not known."""

    link: ProviderLink
    chooser: Chooser
    till: Till
    taker: Taker
    late: LateBook
    history: History
    clock: Clock
    block_number: Callable[[], int]
    rules: DispatchRules
    tolerance: Tolerance = field(default_factory=Tolerance)


@dataclass(frozen=True, slots=True)
class _Signed:
    """An attempt that ended with a good receipt."""

    finish: Finish
    stop: str


@dataclass(frozen=True, slots=True)
class _Unsigned:
    """An attempt that ended without one, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Done:
    finish: Finish
    stop: str


@dataclass(frozen=True, slots=True)
class _Given:
    """Nobody completes the answer; why."""

    reason: str


class Driver:
    """Drives one job to its end; `run` is its task."""

    def __init__(self, desk: Desk, running: RunningJob, model: CatalogModel, first: NodeView) -> None:
        """Take the job with its first node, whose slot is claimed already."""
        self._desk = desk
        self._running = running
        self._job: AcceptedJob = running.accepted
        self._model = model
        self._next: NodeView | None = first
        self._answer = Answer()
        self._taken: list[TakenReceipt] = []
        self._tried: set[tuple[Address, int]] = set()
        self._attempt: Attempt | None = None
        self._stream: JobStream | None = None
        self._aborted: str | None = None
        running.when_left(self._leave)

    async def run(self) -> None:
        """Take the hold, make the answer, move the money, end the job. Never raises but when cancelled."""
        rules, job = self._desk.rules, self._job
        deadline = asyncio.get_running_loop().call_later(
            max(1.0, rules.hold_expiry - rules.cancel), self.abort, "the job took too long"
        )
        try:
            if await self._open_hold():
                await self._settle(await self._make_answer())
        except Exception as error:
            # Whatever goes wrong with one job, its hold must be given back and the others go on.
            log.exception("job_broke", job=job.id.hex())
            await self._break(error)
        finally:
            deadline.cancel()
            self._give_up_slot()
            self._desk.late.job_ended(job.id)

    def abort(self, reason: str) -> None:
        """End the job without an answer; parts that are signed already are paid by the treasury."""
        self._aborted = reason
        if self._stream is not None:
            self._stream.interrupt(reason)

    async def _open_hold(self) -> bool:
        expires_at = self._job.accepted_at_ms + int(self._desk.rules.hold_expiry * 1000)
        try:
            await self._desk.till.open_hold(self._job, expires_at)
        except MarketError as error:
            self._running.refuse(error)
            return False
        self._desk.late.job_started(self._job.id)
        self._running.start()
        return True

    async def _make_answer(self) -> _Done | _Given:
        reason = "no node was tried"
        for number in range(self._desk.rules.max_attempts):
            if self._running.has_left:
                return _Done(Finish.CANCELLED, "")
            node = self._next or await self._next_node()
            self._next = None
            if self._aborted is not None:
                self._desk.chooser.free(node, self._job.request.model_id)
                return _Given(self._aborted)
            if node is None:
                return _Given(f"{reason}; no other node serves the model at this price")
            outcome = await self._try(number, node)
            ending = self._ending(outcome)
            if ending is not None:
                return ending
            reason = outcome.reason if isinstance(outcome, _Unsigned) else "the node handed the job over"
        return _Given(f"{reason}; {self._desk.rules.max_attempts} attempts were made")

    async def _next_node(self) -> NodeView | None:
        rules = self._desk.rules
        return await self._desk.chooser.claim_next(
            self._job, tried=self._tried, patience=max(rules.failover, rules.queue)
        )

    async def _try(self, number: int, node: NodeView) -> _Signed | _Unsigned:
        """Run one attempt to its end, with its slot claimed before and free after."""
        desk = self._desk
        attempt = next_attempt(
            self._job,
            self._answer,
            commitments_of(self._job),
            number=number,
            node=node,
            now_ms=desk.clock.now_ms(),
            block_number=desk.block_number(),
        )
        self._attempt = attempt
        self._tried.add((node.address, node.connected_at_ms))
        try:
            self._stream = await desk.link.open(node.address, attempt.job)
            outcome = await self._listen(attempt, self._stream)
        except (NodeLost, Misbehaved, BadReceipt) as error:
            outcome = await self._blame(attempt, error)
        finally:
            self._answer.absorb(attempt)
            if self._stream is not None:
                self._stream.close()
            self._stream = None
            desk.chooser.free(node, self._job.request.model_id)
        return outcome

    async def _listen(self, attempt: Attempt, stream: JobStream) -> _Signed | _Unsigned:
        rules = self._desk.rules
        if self._running.has_left:
            await self._leave()
        watch = StallWatch(stream, first=rules.first_token, following=rules.stall)
        try:
            async for frame in stream:
                watch.touch()
                match frame:
                    case Tokens():
                        self._deliver(attempt.accept(frame), attempt)
                    case Finished():
                        return self._take(attempt, frame)
                    case Failed():
                        return self._refused(attempt, frame)
        finally:
            watch.stop()
        raise NodeLost("the stream ended without a word")

    def _deliver(self, delta: Delta, attempt: Attempt) -> None:
        if attempt.first_token_at_ms is None:
            attempt.first_token_at_ms = self._desk.clock.now_ms()
        self._running.deliver(delta)

    def _take(self, attempt: Attempt, finished: Finished) -> _Signed:
        """Check the receipt and sign for it. Raises BadReceipt."""
        desk = self._desk
        now = desk.clock.now_ms()
        receipt_id = check_receipt(
            attempt,
            finished,
            self._model,
            desk.taker.domain,
            Seen(now, desk.block_number()),
            desk.tolerance,
        )
        receipt = finished.receipt.receipt
        if receipt.output_tokens == 0:
            self._decline(attempt, receipt_id)
        else:
            self._taken.append(desk.taker.take(finished.receipt, receipt_id, attempt.node.operator, now))
            self._answer.prompt_billed = True
            first = attempt.first_token_at_ms or now
            desk.history.of(attempt.node.address).succeeded(
                first_token_ms=first - attempt.sent_at_ms,
                tokens=receipt.output_tokens,
                elapsed_ms=now - first,
            )
        return _Signed(Finish(receipt.finish), finished.stop)

    def _decline(self, attempt: Attempt, receipt_id: ReceiptId) -> None:
        """Nothing was delivered, so nothing is owed, not even the prompt."""
        self._desk.link.tell(
            attempt.node.address,
            ReceiptRefused(receipt_id=receipt_id, reason="no token was delivered: nothing is owed"),
        )

    def _refused(self, attempt: Attempt, failed: Failed) -> _Unsigned:
        if failed.code not in BLAMELESS:
            self._desk.history.of(attempt.node.address).failed_at(self._desk.clock.now_ms())
        log.info("attempt_refused", job=self._job.id.hex(), node=attempt.node.address, code=failed.code)
        return _Unsigned(f"the node refused ({failed.code})")

    async def _blame(self, attempt: Attempt, error: NodeLost | Misbehaved | BadReceipt) -> _Unsigned:
        """Note the failure; a node that is only lost may bring its receipt later, one that lied may not."""
        record = self._desk.history.of(attempt.node.address)
        now = self._desk.clock.now_ms()
        if self._aborted is None:
            if isinstance(error, NodeLost):
                record.failed_at(now)
            else:
                record.lied_at(now)
        log.warning(
            "attempt_failed",
            job=self._job.id.hex(),
            attempt=attempt.job.attempt,
            node=attempt.node.address,
            kind=type(error).__name__,
            reason=str(error),
        )
        if self._stream is not None and not attempt.cancelled:
            attempt.cancelled = True
            await self._stream.cancel()
        if isinstance(error, NodeLost):
            self._desk.late.remember(attempt, self._model)
        else:
            self._desk.late.bar(attempt, str(error))
        return _Unsigned(str(error))

    def _ending(self, outcome: _Signed | _Unsigned) -> _Done | _Given | None:
        """Decide whether the job ends here; None means that another node goes on."""
        if isinstance(outcome, _Signed) and outcome.finish not in (Finish.HANDED_OVER, Finish.CANCELLED):
            return _Done(outcome.finish, outcome.stop)
        if self._running.has_left:
            return _Done(Finish.CANCELLED, "")
        if self._aborted is not None:
            return _Given(self._aborted)
        request = self._job.request
        whole = as_whole(self._answer, request.parameters, self._model, len(request.prompt_ids))
        if whole is not None:
            return self._finish_by_ourselves(whole)
        if not text_is_of_tokens(self._answer, self._model):
            return _Given("a node sent text that is not that of its tokens")
        return None

    def _finish_by_ourselves(self, whole: Whole) -> _Done:
        """All tokens are here, only the node's signature, or the last bit of text, is not."""
        if whole.rest and self._attempt is not None:
            self._running.deliver(Delta((), whole.rest, (), self._attempt.node.address))
        return _Done(whole.finish, whole.stop)

    async def _settle(self, ending: _Done | _Given) -> None:
        match ending:
            case _Done():
                await self._capture(ending)
            case _Given():
                await self._release(ending.reason)
                self._running.fail(
                    NodesFailed(f"The answer could not be completed: {ending.reason}. Nothing was charged.")
                )

    async def _capture(self, ending: _Done) -> None:
        charge = await self._desk.till.capture(
            self._job.id,
            self._taken,
            finish=ending.finish,
            prompt_tokens=self._prompt_tokens(),
            output_tokens=self._output_tokens(),
            now_ms=self._desk.clock.now_ms(),
        )
        self._notify()
        self._running.complete(
            Completed(
                finish=ending.finish,
                stop=ending.stop,
                prompt_tokens=self._prompt_tokens(),
                output_tokens=self._output_tokens(),
                charge=charge,
                parts=tuple(_part(taken) for taken in self._taken),
            )
        )

    async def _release(self, reason: str) -> None:
        log.warning("job_failed", job=self._job.id.hex(), reason=reason)
        await self._desk.till.release(
            self._job.id, self._taken, error=reason, now_ms=self._desk.clock.now_ms()
        )
        self._notify()

    async def _break(self, error: Exception) -> None:
        """End a job that met a bug: give its hold back if there is one, and say so to the reader."""
        if not self._running.ready.done():
            self._running.refuse(error)
            return
        try:
            await self._release(f"internal error: {type(error).__name__}")
        except Exception:
            # The reaper of expired holds is the last resort.
            log.exception("hold_not_released", job=self._job.id.hex())
        problem = error if isinstance(error, MarketError) else Broken("The job met an internal error.")
        self._running.fail(problem)

    def _notify(self) -> None:
        for taken in self._taken:
            self._desk.link.tell(taken.signed.receipt.node, notice(taken))

    async def _leave(self) -> None:
        """The reader is gone: ask the node to stop and sign, and do not wait for ever."""
        stream, attempt = self._stream, self._attempt
        if stream is None or attempt is None or attempt.cancelled:
            return
        attempt.cancelled = True
        await stream.cancel()
        asyncio.get_running_loop().call_later(
            self._desk.rules.cancel, stream.interrupt, "the node did not answer a cancellation"
        )

    def _give_up_slot(self) -> None:
        if self._next is not None:
            self._desk.chooser.free(self._next, self._job.request.model_id)
            self._next = None

    def _prompt_tokens(self) -> int:
        if self._model.tokenizer is not None:
            return len(self._job.request.prompt_ids)
        return sum(taken.signed.receipt.prompt_tokens for taken in self._taken)

    def _output_tokens(self) -> int:
        if self._model.tokenizer is not None:
            return len(self._answer.ids)
        return sum(taken.signed.receipt.output_tokens for taken in self._taken)


def _part(taken: TakenReceipt) -> Part:
    receipt = taken.signed.receipt
    return Part(
        receipt_id=taken.id,
        node=receipt.node,
        operator=taken.operator,
        prompt_tokens=receipt.prompt_tokens,
        output_tokens=receipt.output_tokens,
        charge=NanoUsd(receipt_charge(receipt)),
    )
