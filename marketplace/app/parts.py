"""What stands behind which port, and who gets whom."""

import os
import secrets
import socket
from importlib.metadata import version

from marketplace.api.deps import Gate
from marketplace.app.chainside import Chainside, Height
from marketplace.chain.evm import EvmChain
from marketplace.chain.sender import EvmSender
from marketplace.chain.stake import EvmStakeBook
from marketplace.domain.history import History
from marketplace.domain.places import Crowd
from marketplace.domain.ports.clock import SystemClock
from marketplace.metrics import Metrics
from marketplace.scheduler import Scheduler
from marketplace.services.acceptance import Market
from marketplace.services.accounts import AccountRules, Accounts
from marketplace.services.acknowledgements import BondWatch, Cheques
from marketplace.services.backoffice import BackOffice, Pace, ScheduledJob
from marketplace.services.balances import Balances
from marketplace.services.catalog import Catalog
from marketplace.services.choosing import Chooser
from marketplace.services.deposits import ChainWatcher
from marketplace.services.dispatch import Desk, DispatchRules
from marketplace.services.goodwill import Goodwill
from marketplace.services.keys import KeyRing
from marketplace.services.late import LateBook
from marketplace.services.leases import WorkLease
from marketplace.services.ledger import HoldTerms
from marketplace.services.limits import LimitRules, Limits, Rate
from marketplace.services.mail import open_mailer
from marketplace.services.nodes import NodeService
from marketplace.services.repeats import Repeats
from marketplace.services.settlement import Settlement
from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.terms import SettlementTerms
from marketplace.services.slots import Slots
from marketplace.services.taking import Taker
from marketplace.services.till import Till
from marketplace.services.transactions import Transactions
from marketplace.settings import Settings
from marketplace.storage.database import Database
from marketplace.transport.hub import HubRules, Identity, WebSocketHub

SWEEP_SECONDS = 600
SUSPENSION_SECONDS = 1.0


class Parts:
    """All parts of a coordinator, joined; nothing runs yet."""

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
        self.hold_terms = HoldTerms(settings.unsigned_allowance, settings.unsigned_daily)
        self.balances = Balances(self.database, self.hold_terms, self.clock)
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
        till = Till(self.database, self.hold_terms)
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
