"""A market that is driven by hand: real dispatch, ledger and books, nodes in memory."""

from pathlib import Path

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.history import History
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.stake import NodeStake
from marketplace.services import ledger
from marketplace.services.acceptance import Market
from marketplace.services.catalog import Catalog
from marketplace.services.choosing import Chooser
from marketplace.services.dispatch import Desk, DispatchRules
from marketplace.services.goodwill import DAY_MS, Goodwill
from marketplace.services.keys import KeyRing
from marketplace.services.late import LateBook
from marketplace.services.maturity import release_orphans
from marketplace.services.nodes import NodeService
from marketplace.services.slots import Slots
from marketplace.services.taking import Taker
from marketplace.services.till import Till
from marketplace.storage.queries import receipts
from marketplace.transport.memory import MemoryConnection, MemoryHub
from tallystick.protocol.frames import Challenge
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd
from tests.support.by_hand import HandBooks
from tests.support.hubs import COORDINATOR, HEAD
from tests.support.machines import Place
from tests.support.nodes import DOMAIN, LEDGER, MODEL_ID, STAKE, ScriptedNode, Work

FEE_BPS = 500
RULES = DispatchRules()
CHALLENGE = Challenge(
    version=1,
    nonce=bytes(32),
    coordinator=COORDINATOR.address,
    chain_id=31337,
    ledger=LEDGER,
    stake=STAKE,
    fee_bps=FEE_BPS,
    software="by hand",
)


async def park(work: Work) -> None:
    """Do nothing by itself: what a node does is for the machine to say."""


class HandMarket:
    """One life of a coordinator. `start` recovers the books, as the application does."""

    def __init__(self, place: Place, clock: Clock, goodwill: NanoUsd) -> None:
        self.books = HandBooks(place)
        self.clock = clock
        self.history, self.slots = History(), Slots()
        self.keys = KeyRing(self.books, clock)
        self._goodwill = goodwill

    async def start(self, treasury: Address) -> None:
        """Give back what the last life held, and be ready for nodes and jobs."""
        books, clock, now = self.books, self.clock, self.clock.now_ms()
        await books.write(lambda session: ledger.ensure_treasury(session, treasury, now))
        paid = await books.read(lambda session: receipts.paid_by(session, TREASURY_ID, now - DAY_MS))
        goodwill = Goodwill(clock, self._goodwill)
        goodwill.restore((Address(operator), NanoUsd(int(amount))) for operator, amount in paid)
        await release_orphans(books)
        self.catalog = await Catalog.open(books, Path("/nowhere"), clock)
        self.nodes = NodeService(books, self.catalog, self.slots, self.history, clock)
        self.hub = MemoryHub(watcher=self.nodes, history=self.history, clock=clock)
        till = Till(books, ledger.HoldTerms(NanoUsd(0)))
        taker = Taker(DOMAIN, COORDINATOR, 1000, lambda milliseconds: HEAD.epoch + 2)
        late = LateBook(
            till, taker, clock, block_number=lambda: HEAD.block_number, tell=self.hub.tell, goodwill=goodwill
        )
        self.nodes.attach(self.hub, late)
        chooser = Chooser(self.hub, self.slots, self.history, clock, chance=lambda: 0.5)
        desk = Desk(
            self.hub, chooser, till, taker, late, self.history, clock, lambda: HEAD.block_number, RULES
        )
        self.market = Market(desk, find_model=self.catalog.by_id, fee_bps=FEE_BPS)
        await self.nodes.see_suspensions()

    def connect(self, node: ScriptedNode) -> MemoryConnection:
        """Connect a node; what it sends goes here from now on."""
        stake = NodeStake(node.operator, True, NanoUsd(10**12), True)
        connection = self.hub.connect(node.hello(CHALLENGE), stake, node.receive)
        node.send = connection.send
        return connection

    def serves(self) -> bool:
        """Say whether the model can be asked for."""
        return self.catalog.by_id(ModelId(MODEL_ID)) is not None
