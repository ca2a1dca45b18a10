"""A market in small for tests of settlement: a chain, books, and work that was done and signed for."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.ports.clock import ManualClock
from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.services.audit_chain import audit_chain
from marketplace.services.deposits import ChainWatcher
from marketplace.services.settlement import EpochFiles, Settlement, SettlementTerms
from marketplace.services.transactions import Transactions
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import Account, EpochRow, SettlementRow
from tallystick.anvil import anvil_key
from tallystick.protocol.eip712 import receipt_digest
from tallystick.protocol.money import NanoUsd
from tests.support import books
from tests.support.anvil import COORDINATOR, OWNER, USD
from tests.support.chains import ChainDriver, address, chain_driver, consent

CONFIRMATIONS = 2
LAG_MS = 1_000
TERMS = ledger.HoldTerms(unsigned_allowance=NanoUsd(1_000 * USD))


@dataclass
class Town:
    """Consumers, operators, and the coordinator's money side; `who` is an index of Anvil's accounts."""

    driver: ChainDriver
    database: Database
    clock: ManualClock
    folder: Path
    terms: SettlementTerms
    jobs: int = 0
    settlement: Settlement = field(init=False)
    transactions: Transactions = field(init=False)
    watcher: ChainWatcher = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Make the services anew, as a process does that was killed."""
        database, chain, sender, clock = self.database, self.driver.chain, self.driver.sender, self.clock
        self.watcher = ChainWatcher(database, chain, clock, confirmations=CONFIRMATIONS, first_block=0)
        self.transactions = Transactions(database, chain, sender, clock, confirmations=CONFIRMATIONS)
        self.files = EpochFiles(self.folder / "epochs")
        self.settlement = Settlement(
            database, chain, self.transactions, clock, self.files, self.terms, anvil_key(COORDINATOR)
        )

    async def consumer(self, who: int, deposit: int, authorized: int = 0) -> str:
        """Make a wallet with a deposit that the books know of; return its account's id."""
        await self.driver.deposit(who, deposit, authorized)
        await self.confirm()
        return address(who)

    async def on_credit(self, name: str, credit: int) -> str:
        """Make an account on credit."""

        def work(session: Session) -> None:
            accounts.create(
                session, name, AccountKind.EMAIL, self.clock.now_ms(), email=f"{name}@example.com"
            )
            ledger.grant_credit(session, name, NanoUsd(credit), name, self.clock.now_ms())

        await self.database.write(work)
        return name

    async def work(
        self,
        account_id: str,
        operator: int,
        charge: int,
        *,
        parts: int = 1,
        matures: bool = True,
        key_id: str = "",
    ) -> None:
        """Let a node of an operator do a job for `charge` nano-dollars; it matures unless told not to."""
        self.jobs += 1
        now = self.clock.now_ms()
        payer = address(OWNER) if not account_id.startswith("0x") else account_id
        base = books.make_job(account_id, number=self.jobs, key_id=key_id)
        job = replace(
            base,
            request=replace(base.request, payer=payer),
            output_price=NanoUsd(charge // parts),
            hold=NanoUsd(charge),
            accepted_at_ms=now,
        )
        taken = []
        for attempt in range(parts):
            one = books.taken(
                job,
                attempt=attempt,
                operator=address(operator),
                matures_at=now,
                prompt_tokens=0,
                output_tokens=1,
            )
            taken.append(replace(one, id=receipt_digest(self.driver.domain, one.signed.receipt)))

        def work(session: Session) -> None:
            ledger.open_hold(session, job, expires_at=now + 60_000, terms=TERMS)
            ledger.capture(session, job.id, taken, finish=0, prompt_tokens=0, output_tokens=parts, now=now)
            if matures:
                ledger.mature(session, now, 1_000)

        await self.database.write(work)

    async def sign(self, who: int, spent: int) -> None:
        """Let a consumer sign that it has spent so much."""
        signed = consent(self.driver.domain, who, spent)
        await self.database.write(
            lambda session: ledger.store_consent(session, address(who), signed.spent, signed.signature)
        )

    async def confirm(self) -> None:
        """Bury what happened, and read it."""
        await self.driver.mine(CONFIRMATIONS)
        await self.watcher.poll()

    async def end_epoch(self) -> int:
        """Let the running epoch end; return its number."""
        head = await self.driver.chain.head()
        epoch = self.terms.epochs.at(head.timestamp)
        wait = self.terms.epochs.end_of(epoch) - head.timestamp
        await self.driver.wait(wait)
        self.clock.advance(wait * 1000)
        return epoch

    async def settle(self, steps: int = 60) -> int:
        """Settle until nothing is left to do; return how many steps it took."""
        for step in range(steps):
            if not await self.settlement.step():
                await self.watcher.poll()
                return step
            await self.driver.mine()
        raise AssertionError(f"not settled after {steps} steps")

    async def epoch(self, number: int) -> EpochRow | None:
        """Return an epoch as the books have it."""
        return await self.database.read(lambda session: queries.epoch(session, number))

    async def rows(self, number: int) -> list[SettlementRow]:
        """Return an epoch's rows."""
        return list(await self.database.read(lambda session: queries.rows_of(session, number)))

    async def account(self, account_id: str) -> Account:
        """Return an account of the books."""
        found = await self.database.read(lambda session: accounts.find(session, account_id))
        assert found is not None
        return found

    async def on_chain(self, who: int):  # type: ignore[no-untyped-def]
        """Return an account of the chain."""
        return (await self.driver.chain.accounts([address(who)]))[address(who)]

    async def check(self) -> None:
        """The books add up, and say of settled amounts what the chain says."""
        report = await self.database.read(audit_books)
        assert report.findings == ()
        await self.confirm()
        assert list(await audit_chain(self.database, self.driver.chain)) == []


MakeTown = Callable[..., AbstractAsyncContextManager[Town]]


@asynccontextmanager
async def town(
    kind: str,
    folder: Path,
    *,
    treasury: int = 100 * USD,
    bond: int = 100 * USD,
    row_threshold: int = USD,
    longest_wait_epochs: int = 3,
    rows_per_chunk: int = 100,
    books_url: str = "",
) -> AsyncIterator[Town]:
    """Give a town on a chain of the given kind, its books empty but for the treasury."""
    database = await Database.open(books_url or f"sqlite+pysqlite:///{folder}/books.sqlite")
    async with chain_driver(kind, treasury=treasury, bond=bond) as driver:
        clock = ManualClock((await driver.chain.head()).timestamp * 1000)
        terms = SettlementTerms(
            domain=driver.domain,
            epochs=driver.clock,
            treasury=address(OWNER),
            row_threshold=NanoUsd(row_threshold),
            longest_wait_epochs=longest_wait_epochs,
            rows_per_chunk=rows_per_chunk,
            confirmations=CONFIRMATIONS,
        )
        await database.write(lambda session: ledger.ensure_treasury(session, address(OWNER), clock.now_ms()))
        made = Town(driver, database, clock, folder, terms)
        await made.confirm()
        yield made
    await database.close()
