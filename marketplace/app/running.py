"""In what order a coordinator starts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from fastapi import FastAPI

from marketplace.app.chainside import Chainside, read_key
from marketplace.app.parts import Parts
from marketplace.app.web import application
from marketplace.chain.times import ledger_times
from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.ports.clock import SystemClock
from marketplace.domain.timing import WorkTimes, tight, too_short
from marketplace.services.catalog import Catalog, CatalogLimits, read_catalog_file
from marketplace.services.goodwill import DAY_MS
from marketplace.services.ledger import ensure_treasury
from marketplace.services.maturity import release_orphans
from marketplace.services.pruning import sweep_leftovers
from marketplace.services.settlement.behind import check_not_behind
from marketplace.settings import Settings
from marketplace.storage.database import Database
from marketplace.storage.ownership import sole_owner
from marketplace.storage.queries import receipts
from tallystick.deployment import BadDeployment, Deployment
from tallystick.evm.connection import connected
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd

log = structlog.get_logger(__name__)


class Coordinator(Parts):
    """All parts; `running` starts them, gives the ASGI application, and stops them in order."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FastAPI]:
        """Start what runs by itself, give the application, and stop everything, the books last."""
        async with AsyncExitStack() as stack:
            await self._check_times()
            stack.push_async_callback(self.accounts.close)
            await self._open_treasury()
            await release_orphans(self.database)
            await asyncio.to_thread(sweep_leftovers, self.files.folder, self.clock.now_ms())
            await self.back_office.prepare()
            await check_not_behind(self.database, self.chain)
            await self.nodes.see_suspensions()
            await self.scheduler.start()
            stack.push_async_callback(self.scheduler.stop)
            await self.hub.start()
            stack.push_async_callback(self.hub.close)
            stack.push_async_callback(self.nodes.close)
            stack.push_async_callback(self.market.close)
            yield application(self)

    async def _check_times(self) -> None:
        """Warn of what the settings let outlast the contracts' times.

        Raises BadDeployment for contracts that are not those of the deployment file, or where money could
        leave that is owed; on a chain of one machine that is only a warning.
        """
        settings = self.settings
        work = WorkTimes(
            settings.hold_expiry_seconds, settings.maturity_lag_seconds, settings.longest_wait_epochs
        )
        times = await ledger_times(self.side.connection, self.side.deployment)
        unsafe = too_short(times, work)
        if unsafe and not self.side.is_local:
            raise BadDeployment("; ".join(unsafe))
        for finding in [*unsafe, *tight(times, work)]:
            log.warning("times_too_short", finding=finding)

    async def _open_treasury(self) -> None:
        owner, now = self.side.deployment.owner, self.clock.now_ms()
        await self.database.write(lambda session: ensure_treasury(session, owner, now))
        paid = await self.database.read(lambda session: receipts.paid_by(session, TREASURY_ID, now - DAY_MS))
        self.goodwill.restore((Address(operator), NanoUsd(int(amount))) for operator, amount in paid)


@asynccontextmanager
async def coordinator(settings: Settings, *, is_local: bool = False) -> AsyncIterator[Coordinator]:
    """Give a coordinator over its open books and chain; both are closed at the end.

    Raises BadDeployment, NodeUnreachable, BooksTaken, Unavailable, or ValueError for a key file that is none.
    """
    deployment = Deployment.load(settings.deployment_file)
    key = read_key(settings)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(settings.rpc_url or deployment.rpc_url))
        stack.enter_context(sole_owner(settings.books_url))
        database = await Database.open(settings.books_url)
        stack.push_async_callback(database.close)
        catalog = await Catalog.open(
            database,
            settings.data_dir / "blobs",
            SystemClock(),
            aliases=settings.aliases,
            only=admitted_models(settings),
            limits=CatalogLimits(settings.catalog_bytes, settings.new_models_per_operator),
        )
        stack.callback(catalog.close)
        yield Coordinator(settings, Chainside(connection, deployment, key, is_local), database, catalog)


def admitted_models(settings: Settings) -> frozenset[ModelId] | None:
    """Return the models that may be offered, None for any. Raises ValueError for a bad catalog file."""
    return None if settings.open_catalog else read_catalog_file(settings.catalog_path)
