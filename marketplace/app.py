"""The composition root: what stands behind which port, who gets whom, and in what order it starts."""

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from marketplace.api.account.keys import key_routes
from marketplace.api.account.money import money_routes
from marketplace.api.account.sign_up import sign_up_routes
from marketplace.api.account.verify_page import verify_page_routes
from marketplace.api.crowding import Crowding
from marketplace.api.deps import AccountServices, Gate
from marketplace.api.errors import routing_response
from marketplace.api.middleware import AccessLog, BodyLimit, DirectRoutes, RequestId
from marketplace.api.openai.completions import Counter
from marketplace.api.openai.routes import Endpoint, openai_routes
from marketplace.api.public.epochs import epoch_routes
from marketplace.api.public.health import Check, health_routes
from marketplace.api.public.market import MarketTerms, market_routes
from marketplace.api.public.receipts import receipt_routes
from marketplace.chain.evm import EvmChain
from marketplace.chain.sender import EvmSender
from marketplace.chain.stake import EvmStakeBook
from marketplace.chain.times import ledger_times
from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.epochs import EpochClock
from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.history import History
from marketplace.domain.places import Crowd
from marketplace.domain.ports.chain import ChainBlock
from marketplace.domain.ports.clock import SystemClock
from marketplace.domain.timing import WorkTimes, tight, too_short
from marketplace.metrics import Metrics
from marketplace.scheduler import Scheduler
from marketplace.services.acceptance import Market
from marketplace.services.accounts import AccountRules, Accounts
from marketplace.services.acknowledgements import BondWatch, Cheques
from marketplace.services.backoffice import BackOffice, Pace, ScheduledJob
from marketplace.services.balances import Balances
from marketplace.services.catalog import Catalog, read_catalog_file
from marketplace.services.choosing import Chooser
from marketplace.services.consents import Consents
from marketplace.services.deposits import ChainWatcher
from marketplace.services.dispatch import Desk, DispatchRules
from marketplace.services.goodwill import DAY_MS, Goodwill
from marketplace.services.keys import KeyRing
from marketplace.services.late import LateBook
from marketplace.services.leases import WorkLease
from marketplace.services.ledger import HoldTerms, ensure_treasury
from marketplace.services.limits import LimitRules, Limits, Rate
from marketplace.services.mail import open_mailer
from marketplace.services.maturity import release_orphans
from marketplace.services.nodes import NodeService
from marketplace.services.receipts import ReceiptBook
from marketplace.services.repeats import Repeats
from marketplace.services.settlement import Settlement
from marketplace.services.settlement.behind import check_not_behind
from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.proofs import EpochProofs
from marketplace.services.settlement.terms import SettlementTerms
from marketplace.services.slots import Slots
from marketplace.services.taking import Taker
from marketplace.services.till import Till
from marketplace.services.transactions import Transactions
from marketplace.settings import Settings
from marketplace.storage.database import Database
from marketplace.storage.ownership import sole_owner
from marketplace.storage.queries import receipts
from marketplace.transport.hub import ChainHead, HubRules, Identity, WebSocketHub
from tallystick.deployment import BadDeployment, Deployment
from tallystick.evm import Connection
from tallystick.evm.connection import connected
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd

log = structlog.get_logger(__name__)

STALE_HEAD_SECONDS = 60
SWEEP_SECONDS = 600
SUSPENSION_SECONDS = 1.0


class Height:
    """The chain's head as it was last read, for those who need it without asking the chain."""

    def __init__(self, epochs: EpochClock) -> None:
        self._epochs = epochs
        self._block: ChainBlock | None = None

    def see(self, block: ChainBlock) -> None:
        """Remember a head."""
        self._block = block

    def number(self) -> int:
        """Return the height, 0 before the first look."""
        return self._block.number if self._block else 0

    def head(self) -> ChainHead:
        """Return the height and the epoch that runs by the chain's own time."""
        return ChainHead(self.number(), self._epochs.at(self._block.timestamp) if self._block else 0)

    async def check(self, now: int) -> str:
        """Return where the chain is. Raises ChainUnavailable if nobody has seen a block lately."""
        if self._block is None or now - self._block.timestamp > STALE_HEAD_SECONDS:
            raise ChainUnavailable(f"The chain's last block was seen at height {self.number()}, a while ago.")
        return f"block {self._block.number}"


@dataclass(frozen=True, slots=True)
class Chainside:
    """The chain and what is known of it before anything runs."""

    connection: Connection
    deployment: Deployment
    key: SigningKey
    is_local: bool

    @property
    def epochs(self) -> EpochClock:
        """How the Ledger counts epochs."""
        return EpochClock(self.deployment.genesis, self.deployment.epoch_length)


class Coordinator:
    """All parts, joined; `running` starts them, gives the ASGI application, and stops them in order."""

    def __init__(self, settings: Settings, side: Chainside, database: Database, catalog: Catalog) -> None:
        self.settings = settings
        self.side = side
        self.database = database
        self.catalog = catalog
        self.clock = SystemClock()
        self.height = Height(side.epochs)
        self.metrics = Metrics()
        self.chain = EvmChain(side.connection, side.deployment)
        self.stakes = EvmStakeBook(side.connection, side.deployment, self.clock)
        self._join_nodes()
        self._join_accounts()
        self._join_market()
        self._join_back_office()
        self.keys.when_revoked(self.market.end_jobs_of)
        self._watch_numbers()

    def _join_nodes(self) -> None:
        history, slots, settings = History(), Slots(), self.settings
        self.nodes = NodeService(self.database, self.catalog, slots, history, self.clock)
        place = self.side.deployment
        identity = Identity(
            coordinator=self.side.key.address,
            chain_id=place.chain_id,
            ledger=place.ledger,
            stake=place.stake,
            fee_bps=settings.fee_bps,
            software=f"tallystick/{version('tallystick')}",
        )
        self.hub = WebSocketHub(
            identity,
            stakes=self.stakes,
            watcher=self.nodes,
            history=history,
            clock=self.clock,
            head=self.height.head,
            rules=HubRules(
                heartbeat_ms=round(settings.heartbeat_seconds * 1000),
                node_timeout=settings.node_timeout_seconds,
            ),
        )
        self.history, self.slots = history, slots

    def _join_accounts(self) -> None:
        settings = self.settings
        self.keys = KeyRing(self.database, self.clock)
        self.repeats = Repeats(self.database, self.clock, settings.hold_expiry_ms)
        rules = AccountRules(
            open_sign_up=settings.open_sign_up,
            verify_emails=bool(settings.smtp_url.get_secret_value()),
            signup_credit=settings.signup_credit,
            session_ms=round(settings.session_hours * 3_600_000),
            link_ms=round(settings.mailed_link_minutes * 60_000),
            address=settings.address,
            daily_credit=settings.signup_credit_daily,
            mails_per_hour=settings.mails_per_hour,
            mails_per_day=settings.mails_per_day,
        )
        mailer = open_mailer(
            settings.smtp_url.get_secret_value(), settings.data_dir / "mail", settings.mail_from
        )
        self.accounts = Accounts(self.database, self.clock, mailer, rules)
        self.balances = Balances(self.database, settings.unsigned_allowance)
        limits = LimitRules(
            key=Rate(settings.key_requests_per_minute, settings.key_burst),
            address=Rate(settings.address_requests_per_minute, settings.address_burst),
            sign_up=Rate(settings.sign_ups_per_hour / 60, settings.sign_ups_per_hour),
        )
        self.crowd = Crowd(settings.max_connections_per_address)
        self.gate = Gate(self.keys, Limits(limits), frozenset(settings.trusted_proxies))

    def _join_market(self) -> None:
        settings, place = self.settings, self.side.deployment
        self.terms = SettlementTerms(
            domain=place.ledger_domain,
            epochs=self.side.epochs,
            treasury=place.owner,
            row_threshold=settings.row_threshold,
            longest_wait_epochs=settings.longest_wait_epochs,
            rows_per_chunk=settings.rows_per_chunk,
            confirmations=settings.confirmations,
        )
        till = Till(self.database, HoldTerms(settings.unsigned_allowance, settings.unsigned_daily))
        taker = Taker(place.ledger_domain, self.side.key, settings.maturity_lag_ms, self.terms.promised_epoch)
        self.goodwill = Goodwill(self.clock, settings.goodwill_daily)
        late = LateBook(
            till,
            taker,
            self.clock,
            block_number=self.height.number,
            tell=self.hub.tell,
            goodwill=self.goodwill,
        )
        self.nodes.attach(self.hub, late)
        rules = DispatchRules(
            max_attempts=settings.max_attempts,
            first_token=settings.first_token_seconds,
            stall=settings.stall_seconds,
            hold_expiry=settings.hold_expiry_seconds,
            queue=settings.queue_seconds,
            failover=settings.failover_seconds,
            cancel=settings.cancel_seconds,
        )
        chooser = Chooser(self.hub, self.slots, self.history, self.clock)
        desk = Desk(self.hub, chooser, till, taker, late, self.history, self.clock, self.height.number, rules)
        self.bond = BondWatch(self.database, self.chain, self.side.key.address)
        self.market = Market(
            desk,
            find_model=self.catalog.by_id,
            fee_bps=settings.fee_bps,
            has_bond_room=self.bond.has_bond_room,
            accepts=settings.accept_jobs,
        )

    def _join_back_office(self) -> None:
        settings, side, clock = self.settings, self.side, self.clock
        self.files = EpochFiles(settings.data_dir / "epochs")
        sender = EvmSender(side.connection, side.deployment, side.key)
        transactions = Transactions(
            self.database, self.chain, sender, clock, confirmations=settings.confirmations
        )
        watcher = ChainWatcher(
            self.database,
            self.chain,
            clock,
            confirmations=settings.confirmations,
            first_block=side.deployment.deployed_block,
            stakes_changed=self.stakes.forget,
        )
        self.back_office = BackOffice(
            self.database,
            self.chain,
            clock,
            watcher=watcher,
            settlement=Settlement(
                self.database, self.chain, transactions, clock, self.files, self.terms, side.key
            ),
            cheques=Cheques(
                self.database,
                self.hub,
                clock,
                side.key,
                side.deployment.ledger_domain,
                self.terms.promised_epoch,
            ),
            bond=self.bond,
            pace=Pace(chain=settings.chain_poll_seconds, settlement=settings.settle_poll_seconds),
            seen=self.height.see,
        )
        lease = WorkLease(
            self.database,
            clock,
            holder=f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}",
            lasts_ms=round(settings.lease_seconds * 1000),
        )
        suspensions = ScheduledJob(
            "see suspensions", SUSPENSION_SECONDS, self.nodes.see_suspensions, everywhere=True
        )
        forgetting = [
            ScheduledJob("forget sign-ins", SWEEP_SECONDS, self.accounts.sweep),
            ScheduledJob("forget repeats", SWEEP_SECONDS, self.repeats.sweep),
        ]
        jobs = [*self.back_office.jobs(), suspensions, *forgetting]
        self.scheduler = Scheduler(jobs, lease, lease_seconds=settings.lease_seconds)

    def _watch_numbers(self) -> None:
        watch = self.metrics.watch
        watch("nodes_connected", "Nodes that are connected.", lambda: len(self.hub.nodes()))
        watch("jobs_running", "Jobs that run.", lambda: self.market.running)
        watch("writes_waiting", "Writes that wait for the next commit.", self.database.writes_waiting)
        watch("chain_height", "The chain's height as seen last.", self.height.number)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FastAPI]:
        """Start what runs by itself, give the application, and stop everything, the books last."""
        async with AsyncExitStack() as stack:
            await self._check_times()
            stack.push_async_callback(self.accounts.close)
            await self._open_treasury()
            await release_orphans(self.database)
            await self.back_office.prepare()
            await check_not_behind(self.database, self.chain)
            await self.nodes.see_suspensions()
            await self.scheduler.start()
            stack.push_async_callback(self.scheduler.stop)
            await self.hub.start()
            stack.push_async_callback(self.hub.close)
            stack.push_async_callback(self.nodes.close)
            stack.push_async_callback(self.market.close)
            yield self._application()

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

    def _application(self) -> FastAPI:
        routes = self._routes()
        patterns = {route.endpoint: route.path for route in routes if isinstance(route, Route)}
        posts = {path: endpoint for endpoint, path in patterns.items() if isinstance(endpoint, Endpoint)}
        app = FastAPI(
            title="Tallystick",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            exception_handlers={HTTPException: routing_response},
            middleware=[
                Middleware(RequestId),
                Middleware(AccessLog, observe=self.metrics.observe, patterns=patterns),
                Middleware(
                    Crowding,
                    crowd=self.crowd,
                    proxies=self.gate.trusted_proxies,
                    address=self.gate.address,
                ),
                Middleware(BodyLimit, most=self.settings.max_body_bytes),
                Middleware(DirectRoutes, posts=posts),
            ],
        )
        app.router.routes.extend(routes)
        return app

    def _routes(self) -> list[BaseRoute]:
        place = self.side.deployment
        services = AccountServices(
            self.gate,
            self.accounts,
            self.keys,
            self.balances,
            Consents(self.database, place.ledger_domain),
            self.repeats,
        )
        counter = Counter(
            self.market, self.catalog, self.gate.caller, self.repeats, self.settings.default_max_tokens
        )
        terms = MarketTerms(
            place, self.settings.rpc_url or place.rpc_url, self.settings.fee_bps, self.side.is_local
        )
        proofs = EpochProofs(self.database, self.files)
        checks: dict[str, Check] = {"books": self._check_books, "chain": self._check_chain}
        return [
            *openai_routes(counter, self.hub),
            *money_routes(services),
            *key_routes(services),
            *verify_page_routes(),
            *sign_up_routes(
                services, address=self.settings.address, chain_id=place.chain_id, clock=self.clock
            ),
            *receipt_routes(self.gate, ReceiptBook(self.database, proofs, self.files)),
            *epoch_routes(self.gate, self.database, self.files.path),
            *market_routes(
                self.gate, terms, self.hub, self.catalog, self.balances, lambda: self.clock.now_ms() // 1000
            ),
            *health_routes(checks, self.metrics.render),
            WebSocketRoute("/v1/nodes/connect", self.hub.serve),
        ]

    async def _check_books(self) -> str:
        return await self.database.read(lambda session: session.get_bind().dialect.name)

    async def _check_chain(self) -> str:
        return await self.height.check(self.clock.now_ms() // 1000)


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
        )
        stack.callback(catalog.close)
        yield Coordinator(settings, Chainside(connection, deployment, key, is_local), database, catalog)


def admitted_models(settings: Settings) -> frozenset[ModelId] | None:
    """Return the models that may be offered, None for any. Raises ValueError for a bad catalog file."""
    return None if settings.open_catalog else read_catalog_file(settings.catalog_path)


def read_key(settings: Settings) -> SigningKey:
    """Return the coordinator's key. Raises ValueError, naming the file but not its content."""
    path = settings.coordinator_key_file
    try:
        return SigningKey(bytes.fromhex(path.read_text().strip().removeprefix("0x")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a file with a private key in hexadecimal") from error
