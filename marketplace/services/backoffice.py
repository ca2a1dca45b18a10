"""The work that time drives: reading the chain, maturity, settlement, cheques, forgotten holds."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from marketplace.domain.ports.chain import Chain, ChainBlock
from marketplace.domain.ports.clock import Clock
from marketplace.services.acknowledgements import BondWatch, Cheques
from marketplace.services.deposits import ChainWatcher
from marketplace.services.maturity import expire_holds, mature_due
from marketplace.services.settlement import Settlement
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement

STEPS_AT_ONCE = 16
"""Steps of settlement in one go; a transaction that is not mined yet is looked at again in the next."""
PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """Something to do every `seconds`; `everywhere`: by each process, not only by the lease's holder."""

    name: str
    seconds: float
    run: Callable[[], Awaitable[object]]
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are looked at, in seconds."""

    chain: float
    settlement: float
    holds: float = 5.0


class BackOffice:
    """All scheduled work as a list of jobs; each can be run at any time and again after a crash."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        clock: Clock,
        *,
        watcher: ChainWatcher,
        settlement: Settlement,
        cheques: Cheques,
        bond: BondWatch,
        pace: Pace,
        seen: Callable[[ChainBlock], None] = lambda block: None,
    ) -> None:
        self._database = database
        self._chain = chain
        self._clock = clock
        self._watcher = watcher
        self._settlement = settlement
        self._cheques = cheques
        self._bond = bond
        self._pace = pace
        self._seen = seen

    async def prepare(self) -> None:
        """Look at the chain once, before the first request is served. Raises ChainUnavailable."""
        await self.look()

    def jobs(self) -> list[ScheduledJob]:
        """Return what is to be done, and how often."""
        pace = self._pace
        return [
            ScheduledJob("look at the chain", pace.chain, self.look, everywhere=True),
            ScheduledJob("read the chain", pace.chain, self._watcher.poll),
            ScheduledJob("mature and settle", pace.settlement, self.settle),
            ScheduledJob("greet nodes", pace.settlement, self._cheques.greet, everywhere=True),
            ScheduledJob("expire holds", pace.holds, self.expire),
        ]

    async def look(self) -> None:
        """See the chain's head and what the bond covers. Raises ChainUnavailable."""
        self._seen(await self._chain.head())
        await self._bond.look()

    async def settle(self) -> None:
        """Mature what is due, sign cheques for it, and bring settlement on. Raises ChainUnavailable."""
        await mature_due(self._database, self._clock)
        cover = await self._bond.look()
        await self._cheques.sign_due(cover.bond)
        for _ in range(STEPS_AT_ONCE):
            if not await self._settlement.step():
                break
            await asyncio.sleep(PAUSE_S)

    async def finish_epoch(self) -> bool:
        """Bring the epoch that is on its way one step on; return whether there is one.

        It begins no other: this is for a coordinator that is about to hand over. Raises ChainUnavailable.
        """
        if await self._database.read(settlement.unfinished) is None:
            return False
        await self._settlement.step()
        return True

    async def expire(self) -> None:
        """Give back forgotten holds."""
        await expire_holds(self._database, self._clock)
