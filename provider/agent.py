"""The agent: connects, takes jobs, answers, and never lets go of a receipt that the coordinator has not answered.

connecting ──▶ serving ──SIGTERM──▶ draining ──jobs ended or handed over──▶ gone
     ▲            │
     └─ backoff ──┘ link lost
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import structlog

from provider.config import ProviderConfig
from provider.evidence import Evidence
from provider.jobs import Bench, RunningJob
from provider.link import Identity, LinkLost, LinkRefused, LinkSession, dial
from provider.plan import Accept, Refuse, decide
from provider.serving import ServedModel
from tallystick.protocol.eip712 import Domain, acknowledgement_digest, taken_digest
from tallystick.protocol.frames import (
    BLOB_CHUNK_BYTES,
    Acknowledged,
    AnyFrame,
    Blob,
    BlobRequest,
    Cancel,
    Draining,
    Failed,
    Finished,
    Heartbeat,
    Job,
    ModelOffer,
    Offers,
    ReceiptRefused,
    ReceiptTaken,
)
from tallystick.protocol.ids import Address, ModelId, ReceiptId
from tallystick.protocol.keys import BadSignature, SigningKey, recover
from tallystick.protocol.receipts import Finish

log = structlog.get_logger()

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0


class Agent:
    """One node. `run` returns when it has drained, or raises LinkRefused when the coordinator will not have it."""

    def __init__(
        self,
        config: ProviderConfig,
        key: SigningKey,
        models: Sequence[ServedModel],
        evidence: Evidence,
        *,
        software: str,
        hardware: str,
        chain_height: Callable[[], int] = lambda: 0,
    ) -> None:
        self.config = config
        self.models = {model.id: model for model in models}
        self.evidence = evidence
        self.draining = False
        self.connected_since: float | None = None
        self.jobs_done = 0
        self._running: dict[tuple[bytes, int], tuple[RunningJob, asyncio.Task[None]]] = {}
        self._leave = asyncio.Event()
        self._session: LinkSession | None = None
        self._coordinator: Address | None = None
        self._told_height = 0
        domain = Domain(chain_id=config.chain_id, contract=config.ledger)
        self._bench = Bench(key, domain, evidence, lambda: max(chain_height(), self._told_height))
        self._identity = Identity(
            key=key,
            operator=config.operator,
            chain_id=config.chain_id,
            ledger=config.ledger,
            stake=config.stake,
            max_fee_bps=config.max_fee_bps,
            software=software,
            region=config.region,
            hardware=hardware,
            engine=", ".join(sorted({model.engine.name for model in models})),
        )

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return len(self._running)

    async def run(self) -> None:
        """Serve until `drain` was called and the last job has ended.

        Raises LinkRefused if the coordinator refuses the node for good.
        """
        async for _ in self._attempts():
            try:
                async with dial(self.config.coordinator, self._identity, self._offers()) as session:
                    await self._serve(session)
            except LinkLost as error:
                log.warning("link_lost", reason=str(error))
            finally:
                self.connected_since = None
                self._session = None
                await self._abandon_jobs()

    def _running_of(self, model_id: ModelId) -> int:
        return sum(1 for running, _ in self._running.values() if running.job.model_id == model_id)

    def drain(self) -> None:
        """Take no new jobs and leave when the running ones have ended, or been handed over after a while."""
        if self.draining:
            return
        self.draining = True
        log.info("draining", running=self.running)
        if self._session is not None:
            self._session.send(Draining())
        self._leave.set()

    def publish_offers(self) -> None:
        """Tell the coordinator the present prices and pauses."""
        if self._session is not None:
            self._session.send(Offers(models=tuple(self._offers())))

    async def _attempts(self) -> AsyncIterator[int]:
        """Give the numbers of the attempts to connect, after growing random waits; a good while connected resets them."""
        failures = 0
        while not self.draining:
            began = time.monotonic()
            yield failures
            failures = 0 if time.monotonic() - began > LONGEST_WAIT_SECONDS else failures + 1
            longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**failures)
            if not self.draining:
                await _wait(self._leave, random.uniform(FIRST_WAIT_SECONDS / 2, longest))

    async def _serve(self, session: LinkSession) -> None:
        self._session = session
        self._coordinator = session.challenge.coordinator
        self._told_height = session.welcome.block_number
        self.connected_since = time.time()
        log.info("connected", coordinator=self._coordinator, models=[m.name for m in self.models.values()])
        self._resend(session)
        helpers = [
            asyncio.create_task(self._beat(session), name="heartbeat"),
            asyncio.create_task(self._drained(session), name="drained"),
        ]
        reader = asyncio.create_task(self._read(session), name="reader")
        try:
            await asyncio.wait((reader, helpers[1]), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                await reader
        finally:
            for task in (reader, *helpers):
                task.cancel()
            await asyncio.gather(reader, *helpers, return_exceptions=True)

    def _resend(self, session: LinkSession) -> None:
        for kept in self.evidence.pending():
            log.info("receipt_resent", receipt=kept.id.hex())
            session.send(Finished(receipt=kept.signed, stop=kept.stop))

    async def _beat(self, session: LinkSession) -> None:
        while True:
            session.send(Heartbeat(at_ms=time.time_ns() // 1_000_000, running=self.running))
            await asyncio.sleep(session.welcome.heartbeat_ms / 1000)

    async def _drained(self, session: LinkSession) -> None:
        """Return when the agent was asked to leave and no job runs any more."""
        await self._leave.wait()
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self.config.drain_seconds)
        for job, _ in list(self._running.values()):
            job.stop(Finish.HANDED_OVER)
        await asyncio.gather(*(task for _, task in list(self._running.values())), return_exceptions=True)
        await self._answered(session)

    async def _answered(self, session: LinkSession, seconds: float = 5.0) -> None:
        """Give the coordinator a moment to answer the last receipts."""
        until = time.monotonic() + seconds
        while self.evidence.pending() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await session.flush()

    async def _read(self, session: LinkSession) -> None:
        async for frame in session.frames():
            await self._handle(frame, session)

    async def _handle(self, frame: AnyFrame, session: LinkSession) -> None:
        match frame:
            case Job():
                self._offered(frame, session)
            case Cancel():
                if found := self._running.get((frame.job_id, frame.attempt)):
                    found[0].stop(Finish.CANCELLED)
            case Heartbeat():
                self._told_height = max(self._told_height, frame.block_number)
            case ReceiptTaken():
                await self._taken(frame)
            case ReceiptRefused():
                log.error("receipt_refused", receipt=frame.receipt_id.hex(), reason=frame.reason)
                await self.evidence.refused(frame)
            case Acknowledged():
                await self._acknowledged(frame)
            case BlobRequest():
                self._send_blob(frame, session)
            case _:
                log.warning("unexpected_frame", type=type(frame).__name__)

    def _offered(self, job: Job, session: LinkSession) -> None:
        model = self.models.get(ModelId(job.model_id))
        decision = decide(
            job,
            None if model is None else model.view(self._running_of(model.id)),
            draining=self.draining,
            known=self.evidence.knows(job.job_id, job.attempt) or (job.job_id, job.attempt) in self._running,
            max_fee_bps=self.config.max_fee_bps,
        )
        match decision:
            case Accept():
                self._start(job, session)
            case Refuse(code=code, message=message):
                log.info("job_refused", job=job.job_id.hex(), code=code)
                session.send(Failed(job_id=job.job_id, attempt=job.attempt, code=code, message=message))

    def _start(self, job: Job, session: LinkSession) -> None:
        place = (job.job_id, job.attempt)
        running = RunningJob(job, self.models[ModelId(job.model_id)].engine, self._bench, session.send)
        task = asyncio.create_task(self._run_job(running), name=f"job-{job.job_id.hex()[:8]}")
        self._running[place] = (running, task)
        task.add_done_callback(lambda _: self._running.pop(place, None))

    async def _run_job(self, running: RunningJob) -> None:
        try:
            await running.run()
            self.jobs_done += 1
        except Exception:  # one job's bug must not take the node's other jobs with it
            log.exception("job_broke", job=running.job.job_id.hex())
            if self._session is not None:
                place = running.job
                self._session.send(
                    Failed(job_id=place.job_id, attempt=place.attempt, code="engine", message="the job broke")
                )

    async def _abandon_jobs(self) -> None:
        """Stop what runs for a coordinator that is gone; it has given these jobs to other nodes by now."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _taken(self, frame: ReceiptTaken) -> None:
        digest = taken_digest(self._bench.domain, ReceiptId(frame.receipt_id), frame.epoch)
        if self._is_coordinators(digest, frame.signature):
            await self.evidence.taken(frame)
        else:
            log.error("taken_not_signed_by_coordinator", receipt=frame.receipt_id.hex())

    async def _acknowledged(self, frame: Acknowledged) -> None:
        digest = acknowledgement_digest(self._bench.domain, frame.account, frame.epoch, frame.earned)
        if frame.account == self.config.operator and self._is_coordinators(digest, frame.signature):
            await self.evidence.acknowledged(frame)
        else:
            log.error("cheque_not_good", account=frame.account, earned=frame.earned)

    def _is_coordinators(self, digest: bytes, signature: bytes) -> bool:
        try:
            return recover(digest, signature) == self._coordinator
        except BadSignature:
            return False

    def _send_blob(self, request: BlobRequest, session: LinkSession) -> None:
        found = next(
            (b for m in self.models.values() if (b := m.engine.blob(request.sha256)) is not None), b""
        )
        if not found:
            session.send(Blob(sha256=request.sha256, offset=0, total=0, data=b""))
        for offset in range(0, len(found), BLOB_CHUNK_BYTES):
            piece = found[offset : offset + BLOB_CHUNK_BYTES]
            session.send(Blob(sha256=request.sha256, offset=offset, total=len(found), data=piece))

    def _offers(self) -> list[ModelOffer]:
        return [model.offer() for model in self.models.values()]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


__all__ = ["Agent", "LinkRefused"]
