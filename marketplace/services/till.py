"""The money side of a job, as one durable step each; `ledger` has the statements."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.jobs import AcceptedJob
from marketplace.domain.receipts import TakenReceipt
from marketplace.services import ledger
from marketplace.storage.database import Database, Underway
from marketplace.storage.failpoints import reach
from marketplace.storage.tables import JobRow, ReceiptRow
from tallystick.protocol.frames import ReceiptTaken
from tallystick.protocol.ids import JobId, ReceiptId
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class Till:
    """Opens, captures and releases holds."""

    database: Database
    terms: ledger.HoldTerms

    def begin_hold(self, job: AcceptedJob, expires_at: int) -> Underway[None]:
        """Set the job's hold aside; what is captured later is in the books after it, or not at all.

        The outcome raises InsufficientBalance, KeyCapReached, ConsentNeeded, Forbidden or Unavailable.
        """

        def work(session: Session) -> None:
            ledger.open_hold(session, job, expires_at=expires_at, terms=self.terms)

        return self.database.begin_short(work)

    async def capture(
        self,
        job_id: JobId,
        taken: Sequence[TakenReceipt],
        *,
        finish: int,
        prompt_tokens: int,
        output_tokens: int,
        now_ms: int,
    ) -> NanoUsd:
        """Charge the signed parts of an answer and give the rest of the hold back; return the charge."""

        def work(session: Session) -> NanoUsd:
            return ledger.capture(
                session,
                job_id,
                taken,
                finish=finish,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                now=now_ms,
            )

        reach("dispatch.before_capture")
        charge = await self.database.write_short(work)
        reach("dispatch.captured")
        return charge

    async def release(self, job_id: JobId, taken: Sequence[TakenReceipt], *, error: str, now_ms: int) -> None:
        """Give the whole hold back; the treasury pays for the signed parts."""

        def work(session: Session) -> None:
            ledger.release(session, job_id, taken, error=error, now=now_ms)

        reach("dispatch.before_release")
        await self.database.write_short(work)
        reach("dispatch.released")

    async def take_late(self, taken: TakenReceipt, now_ms: int) -> NanoUsd:
        """Pay for a part of a job that has failed. Raises Refused if it is not owed."""

        def work(session: Session) -> NanoUsd:
            return ledger.take_late(session, taken, now=now_ms)

        charge = await self.database.write(work)
        reach("dispatch.late_taken")
        return charge

    async def find_taken(self, receipt_id: ReceiptId) -> ReceiptTaken | None:
        """Return what was told about a receipt that is in the books already."""

        def work(session: Session) -> ReceiptTaken | None:
            found = session.execute(
                select(ReceiptRow.taken_epoch, ReceiptRow.taken_signature).where(  # type: ignore[call-overload]
                    ReceiptRow.id == receipt_id
                )
            ).one_or_none()
            if found is None:
                return None
            return ReceiptTaken(receipt_id=receipt_id, epoch=found[0], signature=found[1])

        return await self.database.read(work)

    async def find_job(self, job_id: JobId) -> JobRow | None:
        """Return the books' row of a job."""
        return await self.database.read(lambda session: session.get(JobRow, job_id))
