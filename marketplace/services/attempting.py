"""One attempt at one node: what it streams is handed on, what it signs is checked."""

import asyncio
from dataclasses import dataclass

import structlog

from marketplace.domain.attempts import Answer, Attempt, Misbehaved
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.ports.link import JobStream, JobTooLarge, NodeLost
from marketplace.domain.receipt_checks import BadReceipt, Seen, check_receipt
from marketplace.domain.receipts import TakenReceipt
from marketplace.domain.refusals import FAULTS
from marketplace.services.desk import Desk
from marketplace.services.running import RunningJob
from marketplace.services.stalls import StallWatch
from tallystick.protocol.frames import Failed, Finished, ReceiptRefused, Tokens
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.receipts import Finish

log = structlog.get_logger(__name__)

BLAMELESS = frozenset({"busy", "draining"})
"""Refusals that say nothing against a node."""
MANY_TOKENS = 256
"""In one frame; after it is read, others have their turn: a message may bring many such frames."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The attempt ended with a good receipt; `taken` is None if it was for nothing."""

    finish: Finish
    stop: str
    taken: TakenReceipt | None


@dataclass(frozen=True, slots=True)
class Unsigned:
    """The attempt ended without a receipt, and why; `fault` is the code if the request is to blame for it."""

    reason: str
    fault: str = ""


class Attempting:
    """Runs one attempt; `leave` and `interrupt` may be called while it does."""

    def __init__(self, desk: Desk, running: RunningJob, model: CatalogModel, attempt: Attempt) -> None:
        self.attempt = attempt
        self._desk = desk
        self._running = running
        self._model = model
        self._stream: JobStream | None = None
        self._aborted = False

    async def run(self, answer: Answer) -> Signed | Unsigned:
        """Return how the attempt ended, its tokens delivered and absorbed by `answer`."""
        attempt = self.attempt
        try:
            self._stream = await self._desk.link.open(attempt.node.address, attempt.job)
            return await self._listen(self._stream)
        except JobTooLarge as error:
            return Unsigned(str(error))
        except (NodeLost, Misbehaved, BadReceipt) as error:
            return await self._blame(error)
        finally:
            answer.absorb(attempt)
            if self._stream is not None:
                self._stream.close()

    async def leave(self) -> None:
        """The reader is gone: ask the node to stop and sign, and do not wait for ever."""
        stream, attempt = self._stream, self.attempt
        if stream is None or attempt.cancelled:
            return
        attempt.cancelled = True
        await stream.cancel()
        asyncio.get_running_loop().call_later(
            self._desk.rules.cancel, stream.interrupt, "the node did not answer a cancellation"
        )

    def interrupt(self, reason: str) -> None:
        """End the attempt now; nobody blames the node."""
        self._aborted = True
        if self._stream is not None:
            self._stream.interrupt(reason)

    async def _listen(self, stream: JobStream) -> Signed | Unsigned:
        rules = self._desk.rules
        if self._running.has_left:
            await self.leave()
        watch = StallWatch(stream, first=rules.first_token, following=rules.stall)
        try:
            async for frame in stream:
                watch.touch()
                match frame:
                    case Tokens():
                        self._deliver(frame)
                        if len(frame.ids) > MANY_TOKENS:
                            await asyncio.sleep(0)
                    case Finished():
                        return self._take(frame)
                    case Failed():
                        return self._refused(frame)
        finally:
            watch.stop()
        raise NodeLost("the stream ended without a word")

    def _deliver(self, frame: Tokens) -> None:
        delta = self.attempt.accept(frame, self._model.tokenizer)
        if self.attempt.first_token_at_ms is None:
            self.attempt.first_token_at_ms = self._desk.clock.now_ms()
        self._running.deliver(delta)

    def _take(self, finished: Finished) -> Signed:
        """Check the receipt and sign for it. Raises BadReceipt."""
        desk, attempt = self._desk, self.attempt
        now = desk.clock.now_ms()
        seen = Seen(now, desk.block_number())
        receipt_id = check_receipt(attempt, finished, self._model, desk.taker.domain, seen, desk.tolerance)
        receipt = finished.receipt.receipt
        if receipt.output_tokens == 0:
            self._decline(receipt_id)
            return Signed(Finish(receipt.finish), finished.stop, None)
        first = attempt.first_token_at_ms or now
        desk.history.of(attempt.node.address).succeeded(
            first_token_ms=first - attempt.sent_at_ms, tokens=receipt.output_tokens, elapsed_ms=now - first
        )
        taken = desk.taker.take(finished.receipt, receipt_id, attempt.node.operator, now)
        return Signed(Finish(receipt.finish), finished.stop, taken)

    def _decline(self, receipt_id: ReceiptId) -> None:
        """Nothing was delivered, so nothing is owed, not even the prompt."""
        reason = "no token was delivered: nothing is owed"
        self._desk.link.tell(self.attempt.node.address, ReceiptRefused(receipt_id=receipt_id, reason=reason))

    def _refused(self, failed: Failed) -> Unsigned:
        node = self.attempt.node.address
        is_fault = failed.code in FAULTS and not self._has_begun()
        if failed.code not in BLAMELESS and not is_fault:
            self._desk.history.of(node).failed_at(self._desk.clock.now_ms())
        log.info("attempt_refused", job=failed.job_id.hex(), node=node, code=failed.code[:40])
        return Unsigned(f"the node refused ({failed.code[:40]})", failed.code if is_fault else "")

    def _has_begun(self) -> bool:
        """Say whether a part of the answer was delivered: then the request is one that can be served."""
        attempt = self.attempt
        return bool(attempt.ids or attempt.texts or attempt.job.resume_ids or attempt.text_before)

    async def _blame(self, error: NodeLost | Misbehaved | BadReceipt) -> Unsigned:
        """Note the failure; a node that is only lost may bring its receipt later, one that lied may not."""
        attempt = self.attempt
        record = self._desk.history.of(attempt.node.address)
        log.warning(
            "attempt_failed",
            job=attempt.job.job_id.hex(),
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
            if not self._aborted:
                record.failed_at(self._desk.clock.now_ms())
        else:
            self._desk.late.bar(attempt, str(error))
            record.lied_at(self._desk.clock.now_ms())
        return Unsigned(str(error))
