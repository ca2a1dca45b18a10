"""Running a job: attempt after attempt until the answer is whole, then its money, then its last event.

    hold ─▶ attempt at a node ─▶ signed, final ────────────▶ capture ─▶ Completed
               ▲      │ handed over, lost, stalled, failed
               └──────┘ the next node goes on at that position
                      └ nobody left, or the text is not the tokens' ─▶ release ─▶ NodesFailed

The first node gets the job once the hold's statements have run, while the disk makes it durable; nobody is
given anything of the answer before it is. If it is lost, the job is refused and the node told to stop. What a
node signs for a job that a crash took out of the books is refused: nobody was given its answer.

The driver is a task of its own: a reader that stops reading, leaves or is cancelled cannot tear a step that
moves money.
"""

import asyncio
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
from marketplace.domain.errors import Broken, MarketError, NodesFailed
from marketplace.domain.jobs import AcceptedJob, Delta
from marketplace.domain.ports.link import NodeView
from marketplace.domain.receipts import TakenReceipt
from marketplace.services.attempting import Attempting, Signed, Unsigned
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
            if node is None:
                return _GivenUp(f"{reason}; no other node serves the model at this price")
            outcome = await self._try(number, node)
            ending = self._ending(outcome)
            if ending is not None:
                return ending
            reason = outcome.reason if isinstance(outcome, Unsigned) else "the node handed the job over"
        return _GivenUp(f"{reason}; {self._desk.rules.max_attempts} attempts were made")

    async def _next_node(self) -> NodeView | None:
        """Return a node with its slot claimed: the first one, or whoever can go on."""
        if self._next is not None:
            first, self._next = self._next, None
            return first
        rules = self._desk.rules
        return await self._desk.chooser.claim_next(
            self._job, tried=self._tried, patience=max(rules.failover, rules.queue)
        )

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
        return outcome

    def _ending(self, outcome: Signed | Unsigned) -> _Done | _GivenUp | None:
        """Decide whether the job ends here; None means that another node goes on."""
        if isinstance(outcome, Signed) and outcome.finish not in (Finish.HANDED_OVER, Finish.CANCELLED):
            return _Done(outcome.finish, outcome.stop)
        if self._running.has_left or self._aborted is not None:
            return self._stopped()
        request = self._job.request
        whole = as_whole(self._answer, request.parameters, self._model, len(request.prompt_ids))
        if whole is not None:
            return self._finish_by_ourselves(whole)
        if not text_is_of_tokens(self._answer, self._model):
            return _GivenUp("what was delivered cannot be continued elsewhere")
        return None

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
            case _GivenUp(reason):
                await release(self._desk, self._job.id, self._taken, reason)
                self._running.fail(
                    NodesFailed(f"The answer could not be completed: {reason}. Nothing was charged.")
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
