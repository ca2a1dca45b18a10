"""Running a job: attempt after attempt until the answer is whole, then its money, then its last event.

    hold ─▶ attempt at a node ─▶ signed, final ────────────▶ capture ─▶ Completed
               ▲      │ handed over, lost, stalled, failed
               └──────┘ the next node goes on at that position
                      └ nobody left, or the text is not the tokens' ─▶ release ─▶ NodesFailed
                      └ operators agree that nobody can do it ───────▶ release ─▶ TurnedDown

The first node gets the job once the hold's statements have run, while the disk makes it durable; nobody is
given anything of the answer before it is. If it is lost, the job is refused and the node told to stop. What a
node signs for a job that a crash took out of the books is refused: nobody was given its answer.

The driver is a task of its own: a reader that stops reading, leaves or is cancelled cannot tear a step that
moves money.
"""

import asyncio
import random
from dataclasses import dataclass

import structlog

from marketplace.domain.attempts import (
    Answer,
    Whole,
    as_whole,
    commitments_of,
    next_attempt,
    text_is_of_tokens,
)
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import Broken, MarketError, NodesFailed, TurnedDown
from marketplace.domain.jobs import AcceptedJob, Delta
from marketplace.domain.ports.link import NodeView
from marketplace.domain.receipts import TakenReceipt
from marketplace.domain.refusals import Refusals
from marketplace.services.attempting import Attempting, Signed, Unsigned
from marketplace.services.choosing import wanted_next
from marketplace.services.closing import Outcome, capture, release
from marketplace.services.desk import Desk, DispatchRules
from marketplace.services.running import RunningJob
from marketplace.storage.database import Underway
from marketplace.storage.failpoints import reach
from tallystick.protocol.ids import Address
from tallystick.protocol.receipts import Finish

__all__ = ["Desk", "DispatchRules", "Driver"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Done:
    """The answer is complete, or as much of it as its reader wanted."""

    finish: Finish
    stop: str


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """Nobody completes the answer; why, and what the reader is told if it can do something about it."""

    reason: str
    error: TurnedDown | None = None


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
        self._refusals = Refusals(3 if random.random() < desk.rules.third_opinion else 2)
        self._current: Attempting | None = None
        self._aborted: str | None = None
        self._hold: Underway[None] | None = None
        running.when_left(self._leave)

    async def run(self) -> None:
        """Take the hold, make the answer, move the money, end the job. Never raises but when cancelled."""
        rules, job = self._desk.rules, self._job
        deadline = asyncio.get_running_loop().call_later(
            max(1.0, rules.hold_expiry - rules.cancel), self.abort, "the job took too long"
        )
        try:
            if await self._begin_hold():
                ending = await self._make_answer()
                if await self._is_held():
                    await self._settle(ending)
        except Exception as error:
            # Whatever goes wrong with one job, its hold must be given back and the others go on.
            log.exception("job_broke", job=job.id.hex())
            await self._break(error)
        finally:
            deadline.cancel()
            self._desk.chooser.free(self._next, job.request.model_id)
            self._desk.late.job_ended(job.id)

    def abort(self, reason: str) -> None:
        """End the job without an answer; parts that are signed already are paid by the treasury."""
        self._aborted = reason
        if self._current is not None:
            self._current.interrupt(reason)

    async def _leave(self) -> None:
        if self._current is not None:
            await self._current.leave()

    async def _begin_hold(self) -> bool:
        """Set the hold aside; False if it is refused. The disk may still be waited for."""
        expires_at = self._job.accepted_at_ms + int(self._desk.rules.hold_expiry * 1000)
        try:
            hold = self._desk.till.begin_hold(self._job, expires_at)
            await hold.ran
        except MarketError as error:
            self._running.refuse(error)
            return False
        self._hold = hold
        hold.durable.add_done_callback(self._see_hold)
        self._desk.late.job_started(self._job.id)
        return True

    def _see_hold(self, durable: "asyncio.Future[None]") -> None:
        """Let the reader have the answer, or stop the node that makes one which nobody will get."""
        if durable.cancelled() or durable.exception() is not None:
            self.abort("the hold was lost")
        else:
            reach("dispatch.hold_opened")
            self._running.start()

    async def _is_held(self) -> bool:
        """Say whether the hold is in the books, once that is known; the reader was told if not."""
        if self._hold is None:
            return False
        try:
            await self._hold.durable
        except MarketError as error:
            self._running.refuse(error)
            return False
        return True

    async def _make_answer(self) -> _Done | _GivenUp:
        reason = "no node was tried"
        for number in range(self._desk.rules.max_attempts):
            node = await self._next_node()
            if self._running.has_left or self._aborted is not None:
                self._next = node
                return self._stopped()
            if node is None and 0 < number == len(self._refusals):
                return self._turned_down()
            if node is None:
                return _GivenUp(f"{reason}; no other node serves the model at this price")
            outcome = await self._try(number, node)
            ending = self._ending(outcome)
            if ending is not None:
                return ending
            reason = outcome.reason if isinstance(outcome, Unsigned) else "the node handed the job over"
        if len(self._refusals) == self._desk.rules.max_attempts:
            return self._turned_down()
        return _GivenUp(f"{reason}; {self._desk.rules.max_attempts} attempts were made")

    async def _next_node(self) -> NodeView | None:
        """Return a node with its slot claimed: the first one, or whoever can go on."""
        if self._next is not None:
            first, self._next = self._next, None
            return first
        rules = self._desk.rules
        if self._refusals:
            return await self._next_opinion(rules.queue)
        return await self._desk.chooser.claim_next(
            self._job, tried=self._tried, patience=max(rules.failover, rules.queue)
        )

    async def _next_opinion(self, patience: float) -> NodeView | None:
        """Return a node of an operator that has not refused, its slot claimed, or else any other one.

        Nobody new is waited for: that would only delay what is most likely the answer.
        """
        chooser, wanted, operators = self._desk.chooser, wanted_next(self._job), self._refusals.operators
        theirs = {
            (node.address, node.connected_at_ms)
            for node in self._desk.link.serving(wanted.model_id)
            if node.operator in operators
        }
        other = await chooser.claim(wanted, tried=self._tried | theirs, patience=patience, hopeful=False)
        if other is not None:
            return other
        return await chooser.claim(wanted, tried=self._tried, patience=0, hopeful=False)

    async def _try(self, number: int, node: NodeView) -> Signed | Unsigned:
        """Run one attempt to its end, with its slot claimed before and free after."""
        desk = self._desk
        try:
            attempt = next_attempt(
                self._job,
                self._answer,
                commitments_of(self._job),
                number=number,
                node=node,
                now_ms=desk.clock.now_ms(),
                block_number=desk.block_number(),
            )
            self._tried.add((node.address, node.connected_at_ms))
            self._current = Attempting(desk, self._running, self._model, attempt)
            outcome = await self._current.run(self._answer)
        finally:
            self._current = None
            desk.chooser.free(node, self._job.request.model_id)
        if isinstance(outcome, Signed) and outcome.taken is not None:
            self._taken.append(outcome.taken)
            self._answer.prompt_billed = True
        self._weigh_refusals(node, outcome)
        return outcome

    def _weigh_refusals(self, node: NodeView, outcome: Signed | Unsigned) -> None:
        """Note a refusal; if something was delivered, whoever had refused was wrong."""
        if isinstance(outcome, Unsigned) and outcome.fault:
            self._refusals.add(node, outcome.fault)
        elif self._answer.ids or self._answer.text:
            for wrong in self._refusals.contradicted():
                self._desk.history.of(wrong).refused_wrongly()

    def _ending(self, outcome: Signed | Unsigned) -> _Done | _GivenUp | None:
        """Decide whether the job ends here; None means that another node goes on."""
        if isinstance(outcome, Signed) and outcome.finish not in (Finish.HANDED_OVER, Finish.CANCELLED):
            return _Done(outcome.finish, outcome.stop)
        if self._running.has_left or self._aborted is not None:
            return self._stopped()
        if self._refusals.is_believed:
            return self._turned_down()
        request = self._job.request
        whole = as_whole(self._answer, request.parameters, self._model, len(request.prompt_ids))
        if whole is not None:
            return self._finish_by_ourselves(whole)
        if not text_is_of_tokens(self._answer, self._model):
            return _GivenUp("what was delivered cannot be continued elsewhere")
        return None

    def _turned_down(self) -> _GivenUp:
        error = self._refusals.for_consumer()
        return _GivenUp(error.message, error)

    def _stopped(self) -> _Done | _GivenUp:
        """A reader that left pays for what was signed; an aborted job is not charged."""
        if self._running.has_left or self._aborted is None:
            return _Done(Finish.CANCELLED, "")
        return _GivenUp(self._aborted)

    def _finish_by_ourselves(self, whole: Whole) -> _Done:
        """All tokens are here, only the node's signature, or the last bit of text, is not."""
        if whole.rest:
            self._running.deliver(Delta((), whole.rest, (), self._answer.last_node))
        return _Done(whole.finish, whole.stop)

    async def _settle(self, ending: _Done | _GivenUp) -> None:
        match ending:
            case _Done(finish, stop):
                outcome = Outcome(finish, stop, self._prompt_tokens(), self._output_tokens())
                self._running.complete(await capture(self._desk, self._job.id, self._taken, outcome))
            case _GivenUp(reason, error):
                await release(self._desk, self._job.id, self._taken, reason)
                self._running.fail(
                    error or NodesFailed(f"The answer could not be completed: {reason}. Nothing was charged.")
                )

    async def _break(self, error: Exception) -> None:
        """End a job that met a bug: give its hold back if there is one, and say so to the reader."""
        problem = error if isinstance(error, MarketError) else Broken("The job met an internal error.")
        try:
            if await self._is_held():
                await release(
                    self._desk, self._job.id, self._taken, f"internal error: {type(error).__name__}"
                )
        except Exception:
            # The reaper of expired holds is the last resort.
            log.exception("hold_not_released", job=self._job.id.hex())
        if self._running.ready.done():
            self._running.fail(problem)
        else:
            self._running.refuse(problem)

    def _prompt_tokens(self) -> int:
        if self._model.tokenizer is not None:
            return len(self._job.request.prompt_ids)
        return sum(taken.signed.receipt.prompt_tokens for taken in self._taken)

    def _output_tokens(self) -> int:
        if self._model.tokenizer is not None:
            return len(self._answer.ids)
        return sum(taken.signed.receipt.output_tokens for taken in self._taken)
