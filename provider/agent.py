"""The agent: connects, takes jobs, answers, and keeps every receipt until the coordinator has answered it.

connecting ──▶ serving ──SIGTERM──▶ draining ──jobs ended or handed over──▶ gone
     ▲            │
     └─ backoff ──┘ link lost
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from provider.config import ProviderConfig
from provider.evidence import Evidence
from provider.jobs import Bench
from provider.link import Identity, LinkLost, LinkRefused, LinkSession, dial, notices
from provider.running import RunningJobs
from provider.serving import ServedModel
from provider.tally import Tally
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.frames import (
    BLOB_CHUNK_BYTES,
    Acknowledged,
    AnyFrame,
    Blob,
    BlobRequest,
    Cancel,
    Draining,
    Finished,
    Heartbeat,
    Job,
    ModelOffer,
    Offers,
    ReceiptRefused,
    ReceiptTaken,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

log = structlog.get_logger()

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
LAST_ANSWERS_SECONDS: Final = 5.0
"""How long a leaving agent waits for the coordinator's word on its last receipts."""
MOST_NOTICES: Final = 10
LONGEST_NOTICE: Final = 500


class Agent:
    """One node. `run` returns when it has drained, or raises LinkRefused when it is not wanted."""

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
        settles: Callable[[], Address | None] = lambda: None,
    ) -> None:
        """`settles` says who is the coordinator by the Ledger's word, None while that is not known."""
        self.config = config
        self.models = {model.id: model for model in models}
        self.evidence = evidence
        self.connected_since: float | None = None
        self.notices: deque[str] = deque(maxlen=MOST_NOTICES)
        """What the coordinator said since it connected, for the agent's owner."""
        domain = Domain(chain_id=config.chain_id, contract=config.ledger)
        bench = Bench(key, domain, evidence, lambda: chain_height() or self._told_height)
        self.jobs = RunningJobs(self.models, bench, config.max_fee_bps)
        self._tally = Tally(evidence, domain, config.operator)
        self._settles = settles
        self._leave = asyncio.Event()
        self._session: LinkSession | None = None
        self._told_height = 0
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
    def draining(self) -> bool:
        """Whether it was asked to leave."""
        return self._leave.is_set()

    async def run(self) -> None:
        """Serve until `drain` was called and the last job has ended.

        Raises LinkRefused if the coordinator refuses the node for good.
        """
        failures = 0
        while not self.draining:
            began = time.monotonic()
            try:
                await self._connection()
            except LinkLost as error:
                log.warning("link_lost", reason=str(error))
            # A connection that held for a while starts the waits anew.
            failures = 0 if time.monotonic() - began > LONGEST_WAIT_SECONDS else failures + 1
            await self._pause(_wait_after(failures))

    def drain(self) -> None:
        """Take no new jobs and leave when the running ones have ended, or been handed over after a while.

        Asked a second time, hand them over now.
        """
        if self.draining:
            self.jobs.hand_over()
            return
        log.info("draining", running=len(self.jobs))
        self._leave.set()
        if self._session is not None:
            self._session.send(Draining())

    def publish_offers(self) -> None:
        """Tell the coordinator the present prices and pauses."""
        if self._session is not None:
            self._session.send(Offers(models=tuple(self._offers())))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leave.wait(), seconds)

    async def _connection(self) -> None:
        """Hold one connection from dialling to its end. Raises LinkLost, LinkRefused."""
        dialling = asyncio.create_task(
            dial(self.config.coordinator, self._identity, self._offers(), ca_file=self.config.ca_file)
        )
        try:
            await _first_of(dialling, asyncio.create_task(self._leave.wait()))
        except asyncio.CancelledError:
            if dialling.done() and not dialling.cancelled() and dialling.exception() is None:
                # It was made in the very moment in which nobody wanted it any more.
                await dialling.result().close()
            raise
        if dialling.cancelled():
            return
        session = dialling.result()
        try:
            await self._serve(session)
        finally:
            self.connected_since = None
            self._session = None
            await _to_its_end(self._end(session))

    async def _end(self, session: LinkSession) -> None:
        await self.jobs.abandon()
        await self._tally.stored()
        await session.close()

    async def _serve(self, session: LinkSession) -> None:
        """Exchange frames until the connection ends (raises LinkLost, LinkRefused) or the agent has left."""
        self._session = session
        self._told_height = session.welcome.block_number
        self.connected_since = time.time()
        log.info(
            "connected",
            coordinator=session.challenge.coordinator,
            models=[model.name for model in self.models.values()],
        )
        self.notices.clear()
        for notice in notices(session):
            self._note(notice)
        for kept in self.evidence.pending():
            log.info("receipt_sent_again", receipt=kept.id.hex())
            session.send(Finished(receipt=kept.signed, stop=kept.stop))
        beating = asyncio.create_task(self._beat(session), name="heartbeat")
        try:
            await _first_of(
                asyncio.create_task(self._read(session), name="reader"),
                asyncio.create_task(self._left(session), name="leaver"),
            )
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, session: LinkSession) -> None:
        while True:
            session.send(Heartbeat(at_ms=time.time_ns() // 1_000_000, running=len(self.jobs)))
            await asyncio.sleep(session.welcome.heartbeat_ms / 1000)

    async def _left(self, session: LinkSession) -> None:
        """Return when the agent was asked to leave, no job runs, and the last receipts are answered."""
        await self._leave.wait()
        await self.jobs.finish(self.config.drain_seconds)
        until = time.monotonic() + LAST_ANSWERS_SECONDS
        while self.evidence.pending_count() and time.monotonic() < until:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.05)
        await session.flush()

    async def _read(self, session: LinkSession) -> None:
        async with contextlib.aclosing(session.frames()) as frames:
            async for frame in frames:
                self._check_who_settles(session)
                self._handle(frame, session)

    def _check_who_settles(self, session: LinkSession) -> None:
        """Raise LinkLost if the other side's signatures are worth nothing before the Ledger."""
        known, claimed = self._settles(), session.challenge.coordinator
        if known is not None and known != claimed:
            raise LinkLost(
                f"it signs as {claimed}, but the Ledger's coordinator is {known}: its receipts and cheques "
                "would be worth nothing"
            )

    def _handle(self, frame: AnyFrame, session: LinkSession) -> None:
        match frame:
            case Job():
                self.jobs.offered(frame, session.send, draining=self.draining)
            case Cancel():
                self.jobs.cancel(frame)
            case Heartbeat():
                self._told_height = max(self._told_height, frame.block_number)
                if frame.notice:
                    self._note(frame.notice)
            case ReceiptTaken():
                self._tally.taken(frame, session.challenge.coordinator)
            case ReceiptRefused():
                self._tally.refused(frame)
            case Acknowledged():
                self._tally.acknowledged(frame, session.challenge.coordinator)
            case BlobRequest():
                self._send_blob(frame, session)
            case _:
                log.warning("unexpected_frame", type=type(frame).__name__)

    def _note(self, notice: str) -> None:
        told = notice[:LONGEST_NOTICE]
        log.warning("notice", notice=told)
        if told not in self.notices:
            self.notices.append(told)

    def _send_blob(self, request: BlobRequest, session: LinkSession) -> None:
        held = (model.engine.blob(request.sha256) for model in self.models.values())
        found = next((blob for blob in held if blob is not None), b"")
        if not found:
            session.send(Blob(sha256=request.sha256, offset=0, total=0, data=b""))
        for offset in range(0, len(found), BLOB_CHUNK_BYTES):
            piece = found[offset : offset + BLOB_CHUNK_BYTES]
            session.send(Blob(sha256=request.sha256, offset=offset, total=len(found), data=piece))

    def _offers(self) -> list[ModelOffer]:
        return [model.offer() for model in self.models.values()]


def _wait_after(failures: int) -> float:
    """Return a random wait in seconds that grows with the number of failures in a row."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(failures, 10))
    return random.uniform(FIRST_WAIT_SECONDS / 2, longest)


async def _first_of(*tasks: asyncio.Task[Any]) -> None:
    """Return when the first has ended; the others are cancelled. Raises what the first raised."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` also if this task is cancelled meanwhile; it is cancelled afterwards."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await doing
        raise


__all__ = ["Agent", "LinkRefused"]
