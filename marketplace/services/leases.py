"""One process at a time: whoever holds the lease in the database does the scheduled work.

    ours, or run out by the clock ──▶ taken
    somebody's                    ──▶ watched: if it stays unchanged for its whole length, its holder is gone

The second way needs no clock on the wall: one that jumped back an hour would keep a dead process's lease for
an hour. One that jumped forward can take a lease that is alive; settlement stays right then, as its holder
learns of it within a third of the lease, and two that settle at once send the same transactions.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from marketplace.domain.ports.clock import Clock
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import leases as queries
from marketplace.storage.queries.leases import Claim

log = structlog.get_logger(__name__)

SCHEDULED_WORK: Final = "scheduled work"


class WorkLease:
    """This process's claim to the scheduled work. `holder` is unique to the process."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        holder: str,
        lasts_ms: int,
        name: str = SCHEDULED_WORK,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`monotonic` gives seconds that only pass, whatever happens to the clock."""
        self._database = database
        self._clock = clock
        self._holder = holder
        self._lasts_ms = lasts_ms
        self._name = name
        self._monotonic = monotonic
        self._until = 0
        self._seen: Claim | None = None
        self._seen_at = 0.0

    @property
    def is_held(self) -> bool:
        """Whether it is ours for at least another third of its length, by our own clock."""
        # A clock that stands before the time at which the lease was taken has jumped: it is not trusted.
        return self._until - self._lasts_ms <= self._clock.now_ms() < self._until - self._lasts_ms // 3

    async def renew(self) -> bool:
        """Take the lease or keep it; return whether it is ours. To be called three times in its length."""
        now, had = self._clock.now_ms(), self._until > 0
        until = now + self._lasts_ms
        dead = self._unchanged()
        held, found = await self._database.write(
            lambda session: queries.take(session, self._name, self._holder, now=now, until=until, dead=dead)
        )
        reach("leases.taken")
        self._watch(None if held else found)
        self._until = until if held else 0
        if held != had:
            log.info("lease_taken" if held else "lease_lost", lease=self._name, holder=self._holder)
        return held

    async def give_back(self) -> None:
        """Let another process take over at once."""
        if self._until:
            self._until = 0
            await self._database.write(lambda session: queries.give_back(session, self._name, self._holder))

    def _unchanged(self) -> Claim | None:
        """Return the claim that has been the same for as long as a lease lasts: nobody renews it."""
        passed_ms = (self._monotonic() - self._seen_at) * 1000
        return self._seen if self._seen is not None and passed_ms >= self._lasts_ms else None

    def _watch(self, found: Claim | None) -> None:
        if found != self._seen:
            self._seen, self._seen_at = found, self._monotonic()
