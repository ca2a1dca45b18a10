"""What happens around nodes besides jobs: their models come into the catalog, their records are kept."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog
from sqlalchemy.orm import Session

from marketplace.domain.errors import MarketError
from marketplace.domain.history import History
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import BlobRefused, NodeLost, NodeView, ProviderLink
from marketplace.services.catalog import Catalog
from marketplace.services.late import LateBook
from marketplace.services.slots import Slots
from marketplace.storage.database import Database
from marketplace.storage.queries import nodes as queries
from marketplace.storage.tables import NodeRow
from tallystick.protocol.frames import Finished, Heartbeat, Hello, ModelOffer, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address, ModelId

log = structlog.get_logger(__name__)


class NodeService:
    """The NodeWatcher of the coordinator. `attach` gives it the link, which needs it first."""

    def __init__(
        self, database: Database, catalog: Catalog, slots: Slots, history: History, clock: Clock
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._slots = slots
        self._history = history
        self._clock = clock
        self._link: ProviderLink | None = None
        self._late: LateBook | None = None
        self._operators: dict[Address, Address] = {}
        self._offered: dict[Address, Sequence[ModelOffer]] = {}
        """What nodes whose models are being looked at have offered since."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._suspended: frozenset[Address] = frozenset()

    def attach(self, link: ProviderLink, late: LateBook) -> None:
        """Complete the service; the hub and it know each other."""
        self._link = link
        self._late = late

    async def close(self) -> None:
        """Store the records of all nodes that are connected; what they do after that is not recorded."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        for node in list(self._operators):
            await self._store(node)

    async def see_suspensions(self) -> None:
        """Look which nodes the operator of the market has suspended; they get no new jobs from now on."""
        suspended = await self._database.read(queries.suspended)
        nodes = frozenset(Address(one) for one in suspended)
        if nodes == self._suspended or self._link is None:
            return
        log.info("suspensions_changed", nodes=sorted(nodes))
        self._suspended = nodes
        self._link.suspend(nodes)
        self._slots.wake_all()

    @property
    def is_busy(self) -> bool:
        """Whether something is still being stored or fetched."""
        return bool(self._tasks)

    # What the hub calls.

    def joined(self, node: NodeView, hello: Hello) -> None:
        """A node is connected: look at its models, note that it was here."""
        self._operators[node.address] = node.operator
        self._spawn(self._remember(node, hello))
        self.offered(node.address, hello.models)

    def offered(self, node: Address, models: Sequence[ModelOffer]) -> None:
        """Take new models into the catalog, and let waiting jobs look again."""
        self._slots.wake_all()
        unknown = [offer for offer in models if self._catalog.by_id(ModelId(offer.model_id)) is None]
        if unknown:
            is_busy = node in self._offered
            self._offered[node] = unknown
            if not is_busy:
                self._spawn(self._admit(node))

    def left(self, node: Address) -> None:
        """A node is gone: keep its record."""
        self._operators.pop(node, None)
        self._spawn(self._store(node))

    async def late_receipt(self, node: Address, finished: Finished) -> ReceiptTaken | ReceiptRefused | None:
        """Answer a receipt that nobody waits for."""
        operator = self._operators.get(node)
        if operator is None or self._late is None:
            return None
        try:
            return await self._late.answer(node, operator, finished)
        except MarketError:
            # The node keeps the receipt and brings it again; its other receipts must not wait for it.
            log.exception("late_receipt_unanswered", node=node)
            return None

    async def _admit(self, node: Address) -> None:
        """Take in what a node offers, one model after the other, until it has offered nothing more."""
        try:
            while offers := self._offered[node]:
                self._offered[node] = ()
                for offer in offers:
                    await self._admit_one(node, offer)
                    if self._offered[node]:
                        break
        finally:
            del self._offered[node]

    async def _admit_one(self, node: Address, offer: ModelOffer) -> None:
        link, operator = self._link, self._operators.get(node)
        if link is None or operator is None:
            return

        async def fetch(sha256: bytes, limit: int) -> bytes:
            return await link.fetch_blob(node, sha256, limit=limit)

        try:
            await self._catalog.admit(offer, fetch, operator)
        except (MarketError, BlobRefused, NodeLost) as error:
            log.warning("model_refused", node=node, name=offer.name, reason=str(error))
            notice = f"{offer.name!r} is not served here: {error}"
            link.tell(node, Heartbeat(at_ms=self._clock.now_ms(), notice=notice))

    async def _remember(self, node: NodeView, hello: Hello) -> None:
        now = self._clock.now_ms()

        def work(session: Session) -> None:
            row = session.get(NodeRow, node.address)
            if row is None:
                row = NodeRow(address=node.address, operator=node.operator, first_seen=now, last_seen=now)
                # A new key is no way out of a suspension.
                row.suspended = queries.is_operator_suspended(session, node.operator)
            row.operator, row.last_seen = node.operator, now
            row.region, row.hardware, row.software = hello.region, hello.hardware, hello.software
            session.add(row)

        await self._database.write(work)

    async def _store(self, node: Address) -> None:
        record = self._history.of(node)
        done, failed = record.unsaved()
        now = self._clock.now_ms()

        def work(session: Session) -> None:
            row = session.get(NodeRow, node)
            if row is not None:
                row.jobs_done += done
                row.jobs_failed += failed
                row.last_seen = now
                session.add(row)

        await self._database.write(work)

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            doing.close()
            return
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("node_service_failed", error=repr(task.exception()))
