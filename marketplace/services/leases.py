"""One process at a time: whoever holds the lease in the database does the scheduled work."""

from typing import Final

import structlog

from marketplace.domain.ports.clock import Clock
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import leases as queries

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
    ) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder
        self._lasts_ms = lasts_ms
        self._name = name
        self._until = 0

    @property
    def is_held(self) -> bool:
        """Whether it is ours for at least another third of its length, by our own clock."""
        return self._clock.now_ms() < self._until - self._lasts_ms // 3

    async def renew(self) -> bool:
        """Take the lease or keep it; return whether it is ours. To be called three times in its length."""
        now, had = self._clock.now_ms(), self._until > 0
        until = now + self._lasts_ms
        held = await self._database.write(
            lambda session: queries.take(session, self._name, self._holder, now=now, until=until)
        )
        reach("leases.taken")
        self._until = until if held else 0
        if held != had:
            log.info("lease_taken" if held else "lease_lost", lease=self._name, holder=self._holder)
        return held

    async def give_back(self) -> None:
        """Let another process take over at once."""
        if self._until:
            self._until = 0
            await self._database.write(lambda session: queries.give_back(session, self._name, self._holder))
