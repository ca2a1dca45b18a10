"""A whole market without HTTP and chain: real books, a real hub on a socket, scripted nodes."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from sqlmodel import select

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.history import History
from marketplace.domain.jobs import Completed, Delta, JobEvent, JobRequest, Wishes
from marketplace.domain.ports.clock import SystemClock
from marketplace.services import ledger
from marketplace.services.acceptance import Market
from marketplace.services.audit_books import audit_books
from marketplace.services.catalog import Catalog
from marketplace.services.choosing import Chooser
from marketplace.services.dispatch import Desk, DispatchRules
from marketplace.services.goodwill import DEFAULT_DAILY, Goodwill
from marketplace.services.late import LateBook
from marketplace.services.nodes import NodeService
from marketplace.services.running import RunningJob
from marketplace.services.slots import Slots
from marketplace.services.taking import Taker
from marketplace.services.till import Till
from marketplace.storage.database import Database
from marketplace.storage.tables import Account, JobRow, ReceiptRow
from marketplace.transport.hub import HubRules, WebSocketHub
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tests.support.hubs import COORDINATOR, HEAD, StakeList, a_hub, eventually, running_hub
from tests.support.nodes import DOMAIN, MODEL_ID, NodeConnection, ScriptedNode, connected

CONSUMER = Address("0x" + "c0" * 20)
TREASURY = Address("0x" + "7e" * 20)
DEPOSIT = NanoUsd(1_000_000_000)

QUICK = DispatchRules(first_token=4.0, stall=2.0, cancel=2.0, hold_expiry=60, queue=1.0, failover=1.0)
QUICK_HUB = HubRules(heartbeat_ms=100, node_timeout=3.0)


def a_request(**changes: Any) -> JobRequest:
    """Return a request for an echo of `hello`."""
    fields: dict[str, Any] = {
        "account_id": CONSUMER,
        "key_id": "",
        "payer": CONSUMER,
        "model_id": MODEL_ID,
        "model_name": "echo",
        "prompt_ids": tuple(b"hello"),
        "prompt_text": "hello",
        "parameters": Parameters(max_tokens=64),
        "wishes": Wishes(),
    }
    return JobRequest(**(fields | changes))


@dataclass
class Stand:
    """The parts of a market, for tests to look at."""

    market: Market
    hub: WebSocketHub
    url: str
    stakes: StakeList
    database: Database
    catalog: Catalog
    slots: Slots
    history: History
    desk: Desk
    late: LateBook
    nodes: NodeService

    @contextlib.asynccontextmanager
    async def joined(self, node: ScriptedNode, **options: Any) -> AsyncIterator[NodeConnection]:
        """Connect a node and wait until its models can be asked for."""
        self.stakes.register(node)
        async with connected(node, self.url, **options) as connection:
            await eventually(lambda: self._has(node))
            yield connection

    def _has(self, node: ScriptedNode) -> bool:
        here = any(view.address == node.address for view in self.hub.nodes())
        return here and all(self.catalog.by_id(ModelId(offer.model_id)) for offer in node.models)

    async def ask(self, **changes: Any) -> tuple[str, list[int], Completed]:
        """Return text, ids and end of an answer."""
        return await answer_of(await self.market.submit(a_request(**changes)))

    async def account(self, account_id: str = CONSUMER) -> Account:
        """Return an account's row."""

        def work(session: Session) -> Account:
            account = session.get(Account, account_id)
            assert account is not None
            return account

        return await self.database.read(work)

    async def earned(self, node: ScriptedNode) -> int:
        """Return what the node's operator has earned, not yet matured."""

        def work(session: Session) -> int:
            found = session.scalars(select(Account).where(Account.address == node.operator)).one_or_none()
            return 0 if found is None else found.earned_pending

        return await self.database.read(work)

    async def jobs(self) -> list[JobRow]:
        """Return all jobs."""
        return list(await self.database.read(lambda session: session.scalars(select(JobRow)).all()))

    async def receipts(self) -> list[ReceiptRow]:
        """Return all receipts that were taken, by attempt."""
        statement = select(ReceiptRow).order_by(ReceiptRow.attempt)  # type: ignore[arg-type]
        return list(await self.database.read(lambda session: session.scalars(statement).all()))

    async def treasury(self) -> Account:
        """Return the treasury's row."""
        return await self.account(TREASURY_ID)

    async def all_ended(self) -> None:
        """Wait until no job runs."""
        await eventually(lambda: self.market.running == 0)


async def answer_of(running: RunningJob) -> tuple[str, list[int], Completed]:
    """Read an answer to its end."""
    events: list[JobEvent] = [event async for event in running]
    assert isinstance(events[-1], Completed)
    deltas = [event for event in events if isinstance(event, Delta)]
    text = "".join(delta.text for delta in deltas)
    return text, [one for delta in deltas for one in delta.ids], events[-1]


@contextlib.asynccontextmanager
async def a_market(
    folder: Path,
    *,
    rules: DispatchRules = QUICK,
    hub_rules: HubRules = QUICK_HUB,
    deposit: NanoUsd = DEPOSIT,
    goodwill: NanoUsd = DEFAULT_DAILY,
    **options: Any,
) -> AsyncIterator[Stand]:
    """Run a market with one consumer who has deposited and authorized; at the end its books must add up."""
    database = await Database.open(f"sqlite+pysqlite:///{folder / 'books.sqlite3'}")
    await database.write(lambda session: _open_accounts(session, deposit))
    clock, history, slots = SystemClock(), History(), Slots()
    catalog = await Catalog.open(database, folder / "blobs", clock)
    nodes = NodeService(database, catalog, slots, history, clock)
    stakes = StakeList()
    hub = a_hub(stakes, nodes, hub_rules, history)
    till = Till(database, ledger.HoldTerms(NanoUsd(0)))
    taker = Taker(DOMAIN, COORDINATOR, 1000, lambda milliseconds: HEAD.epoch + 2)
    late = LateBook(
        till,
        taker,
        clock,
        block_number=lambda: HEAD.block_number,
        tell=hub.tell,
        goodwill=Goodwill(clock, goodwill),
    )
    nodes.attach(hub, late)
    desk = Desk(
        hub,
        Chooser(hub, slots, history, clock),
        till,
        taker,
        late,
        history,
        clock,
        lambda: HEAD.block_number,
        rules,
    )
    market = Market(desk, find_model=catalog.by_id, fee_bps=500, **options)
    async with running_hub(hub) as url:
        try:
            yield Stand(market, hub, url, stakes, database, catalog, slots, history, desk, late, nodes)
        finally:
            await market.close(timeout=2)
            await nodes.close()
            catalog.close()
            report = await database.read(audit_books)
            await database.close()
    assert report.findings == ()


def _open_accounts(session: Session, deposit: NanoUsd) -> None:
    ledger.ensure_treasury(session, TREASURY, 1)
    if deposit:
        ledger.credit_deposit(session, TREASURY, DEPOSIT, "treasury's deposit", 1)
        ledger.credit_deposit(session, CONSUMER, deposit, "deposit", 1)
        ledger.set_authorized(session, CONSUMER, deposit, 1)
