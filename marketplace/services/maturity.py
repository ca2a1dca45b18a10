"""What time does to the books: receipts mature, and holds that nobody closed are given back."""

from collections.abc import Sequence
from typing import Final

import structlog
from sqlalchemy.orm import Session

from marketplace.domain.ports.clock import Clock
from marketplace.services import ledger
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from tallystick.protocol.ids import JobId, to_hex

log = structlog.get_logger(__name__)

RECEIPTS_A_WRITE: Final = 500
FOR_EVER: Final = 2**62
"""A time, in milliseconds, by which every hold has expired."""


async def mature_due(database: Database, clock: Clock) -> int:
    """Mature all receipts whose lag is over, some at a time; return how many."""
    total = 0

    def work(session: Session) -> int:
        return ledger.mature(session, clock.now_ms(), RECEIPTS_A_WRITE)

    while True:
        matured = await database.write(work)
        total += matured
        reach("maturity.some_matured")
        if matured < RECEIPTS_A_WRITE:
            return total


async def expire_holds(database: Database, clock: Clock) -> Sequence[JobId]:
    """Give back the holds that are past their time; return their jobs."""
    now = clock.now_ms()
    expired = await database.write(lambda session: ledger.expire_holds(session, now))
    reach("maturity.holds_expired")
    for job_id in expired:
        log.warning("hold_expired", job=to_hex(job_id))
    return expired


async def release_orphans(database: Database) -> int:
    """Give back every hold there is; return how many.

    To be called before the first job by whoever owns the books alone: the holds are those of a process that
    has ended without closing them. A node that had signed brings its receipt later, which the treasury pays.
    """
    total = 0
    while released := await database.write(lambda session: ledger.expire_holds(session, FOR_EVER)):
        total += len(released)
        reach("books.orphans_released")
    if total:
        log.warning("orphaned_holds_released", jobs=total)
    return total
