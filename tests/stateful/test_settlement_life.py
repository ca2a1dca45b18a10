"""Settlement against a model of it: whatever people, chain, time and crashes do, in whatever order.

Laws, after every step:
    money on the chain is neither made nor lost
    nobody is charged more than what it used and matured, nor more than it ever authorized or signed for
    no operator is credited more than its matured receipts earned, less the fee
    a receipt has one place in one epoch, and a closed epoch one root
    the books have what was used and earned; what the chain has of it is what they call settled, or more
At the end, when everybody has money and rights and time has passed, all is settled to the nano-dollar.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from marketplace.domain.errors import ChainUnavailable, Refused, Unavailable
from marketplace.domain.history import History
from marketplace.domain.ports.clock import ManualClock
from marketplace.services import ledger, winding
from marketplace.services.acknowledgements import Cheques
from marketplace.services.audit_epochs import audit_epochs
from marketplace.services.maturity import mature_due
from marketplace.services.settlement import SettlementTerms
from marketplace.storage.failpoints import FAILPOINTS
from marketplace.transport.memory import MemoryHub
from tallystick.anvil import anvil_key
from tallystick.evm import Reverted
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import COORDINATOR, LONG_TERMS, OWNER, USD
from tests.support.by_hand import HandBooks, dies_at
from tests.support.chains import MemoryDriver, address
from tests.support.hand_machine import HandMachine
from tests.support.hubs import Notes
from tests.support.machines import machine_settings, place
from tests.support.moody_chain import MoodyChain
from tests.support.settlement_model import SettlementModel
from tests.support.settling import CONFIRMATIONS, Town

CONSUMERS, OPERATORS = (2, 3, 4), (6, 7)
PAYERS = [*(address(who) for who in CONSUMERS), "dave"]
BOND, TREASURY = 50 * USD, 3 * USD
CHARGES = (7, 123_456_789, 700_000_001, 1_000_000_000, 1_900_000_000)
POINTS = [
    *["books.group_ran", "books.group_committed", "books.group_committed:3", "maturity.some_matured"],
    *(
        name
        for name in FAILPOINTS
        if name.startswith(("deposits.", "acknow", "settlement.", "transactions."))
    ),
]
DOINGS = [
    *["work"] * 6,
    *["ends_an_epoch"] * 4,
    *["settles"] * 4,
    *["consent"] * 2,
    "works_at_the_desk",
    "both_settle_at_once",
    "withdraw_under_way",
    "withdraw_what_was_charged",
    "grant_under_way",
    "forgets_an_epoch",
    "deposits",
    "authorize",
    "leave",
    "withdraw",
    "grant",
    "cash",
    "waits",
    "mines",
    "reorganise",
    "is_congested_or_clears",
    "goes_down_in_the_middle",
]
EXAMPLES = 200
"""In CI, a minute and a half of CPU, most of which goes to SQLAlchemy."""
doings = st.lists(st.tuples(st.sampled_from(DOINGS), st.integers(0, 1_000)), min_size=1, max_size=2)
amounts = st.integers(1, 5_000_000).map(lambda units: units * 1000)


def who(number: int) -> int:
    """Return one of the consumers."""
    return CONSUMERS[number % 3]


class SettlementMachine(HandMachine):
    """Drives two coordinators on one set of books, the chain's twin and the model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = MemoryDriver(treasury=TREASURY, bond=BOND, kind=MoodyChain)
        assert isinstance(self.driver.memory, MoodyChain)
        self.memory = self.driver.memory
        self.clock = ManualClock(self.loop.do(self.memory.head()).timestamp * 1000)
        self.model = SettlementModel(PAYERS, OPERATORS, BOND + TREASURY)
        self.doubtful: tuple[str, int, int] | None = None
        """A job that a crash may have kept out of the books."""
        self.is_sound = False
        self.first_block = self.touched = self.cashed = 0

    @initialize(
        rows_per_chunk=st.sampled_from([1, 2, 100]),
        deposits=st.lists(amounts, min_size=3, max_size=3),
        rights=st.lists(st.booleans(), min_size=3, max_size=3),
    )
    def open(self, rows_per_chunk: int, deposits: list[int], rights: list[bool]) -> None:
        self.terms = SettlementTerms(
            domain=self.driver.domain,
            epochs=self.driver.clock,
            treasury=address(OWNER),
            row_threshold=NanoUsd(USD),
            longest_wait_epochs=1,
            rows_per_chunk=rows_per_chunk,
            confirmations=CONFIRMATIONS,
        )
        books = HandBooks(place())
        now = self.clock.now_ms()
        self.loop.do(books.write(lambda session: ledger.ensure_treasury(session, address(OWNER), now)))
        self.jobs = 0
        self.start(books)
        self.do(self.town.confirm())
        for one, amount, is_free in zip(CONSUMERS, deposits, rights, strict=True):
            self.deposit(one, amount, 100 * USD if is_free else 0)
        self.do(self.town.confirm())
        self.first_block = self.do(self.memory.head()).number

    def start(self, books: HandBooks) -> None:
        """Begin a life: two processes on the same books and the same chain."""
        self.books = books
        folder = place().folder
        self.town = Town(self.driver, books, self.clock, folder, self.terms, jobs=self.jobs)
        self.twin = Town(self.driver, books, self.clock, folder, self.terms)
        hub = MemoryHub(watcher=Notes(), history=History(), clock=self.clock)
        key, domain = anvil_key(COORDINATOR), self.driver.domain
        self.cheques = Cheques(books, hub, self.clock, key, domain, self.terms.promised_epoch)

    def do(self, doing: Coroutine[Any, Any, Any]) -> Any:
        """Do it; a chain that does not answer is nothing new."""
        with contextlib.suppress(ChainUnavailable):
            return self.loop.do(doing)

    @rule(doings=doings)
    def passes(self, doings: list[tuple[str, int]]) -> None:
        self.is_sound = False
        for what, number in doings:
            getattr(self, what)(number)
            self.check_chain()

    @rule(point=st.sampled_from(POINTS), doings=doings)
    def passes_and_dies(self, point: str, doings: list[tuple[str, int]]) -> None:
        if dies_at(point, lambda: self.passes([*doings, ("ends_an_epoch", len(doings))])):
            self.die()

    # People

    def deposits(self, number: int) -> None:
        self.deposit(who(number), (1 + number * 5_000) * 1000, (0, 0, 3 * USD)[number % 3])

    def deposit(self, who: int, amount: int, right: int) -> None:
        self.touch()
        self.do(self.driver.deposit(who, amount, right))
        self.move(amount)
        self.model.allow(address(who), right)

    def move(self, amount: int) -> None:
        self.model.moved.append((self.height(), amount))

    def height(self) -> int:
        return len(self.memory._blocks) - 1

    def authorize(self, number: int) -> None:
        self.touch()
        right = self.memory._state.account(address(who(number))).authorized + number * 2_000_001
        self.do(self.driver.authorize(who(number), right))
        self.model.allow(address(who(number)), right)

    def consent(self, number: int) -> None:
        spent = self.model.spent[address(who(number))] * (30, 100)[number % 2] // 100
        if spent:
            self.model.allow(address(who(number)), spent)
            self.do(self.town.sign(who(number), spent))

    def leave(self, number: int) -> None:
        self.do(self.driver.request_withdrawal(who(number), (0, USD, 2**64 - 1)[number % 4 % 3]))
        if number % 2:
            self.pass_time(LONG_TERMS.thaw)

    def withdraw(self, number: int) -> None:
        if not self.touch():
            return
        address_ = address(who(number))
        before = self.memory._state.account(address_).balance
        with contextlib.suppress(Reverted):
            self.do(self.driver.withdraw(who(number)))
            self.move(self.memory._state.account(address_).balance - before)

    def withdraw_under_way(self, number: int) -> None:
        """Take everything while the rows that charge it wait to be mined."""
        self.do(self.driver.request_withdrawal(who(number), 2**64 - 1))
        self.work_for(PAYERS[number % 3], number)
        self.pass_time(LONG_TERMS.thaw)
        self.do(mature_due(self.books, self.clock))
        self.do(self.town.end_epoch())
        self.memory.holds_back = True
        self.do(self.settle(2 + number % 5, mines=False))
        self.withdraw(number)
        self.memory.holds_back = False
        self.do(self.settle(number % 4, mines=True))

    def withdraw_what_was_charged(self, number: int) -> None:
        """The chain takes rows back, and whom they charged leaves before they are sent again."""
        self.do(self.driver.request_withdrawal(who(number), 2**64 - 1))
        self.work_for(PAYERS[number % 3], number)
        self.pass_time(LONG_TERMS.thaw)
        self.do(mature_due(self.books, self.clock))
        self.do(self.town.end_epoch())
        before = self.height()
        self.do(self.settle(3 + number % 5, mines=True))
        self.take_back(before)
        self.withdraw(number)
        self.do(self.settle(number % 6, mines=True))

    def grant_under_way(self, number: int) -> None:
        """Give credit, and work, while the treasury's advance is on its way."""
        self.work_for(PAYERS[number % 3], number)
        self.do(mature_due(self.books, self.clock))
        self.do(self.town.end_epoch())
        self.do(self.settle(1 + number % 3, mines=number % 2 == 0))
        self.grant(number)
        self.work(number)
        self.do(mature_due(self.books, self.clock))
        self.do(self.settle(number % 6, mines=True))

    def grant(self, number: int) -> None:
        if not self.model.granted:
            amount = 1 + number * 2_000_000
            with contextlib.suppress(Refused):
                self.do(self.town.on_credit("dave", amount))
                self.model.granted = amount

    def work(self, number: int) -> None:
        self.work_for(PAYERS[number % 4], number)

    def work_for(self, payer: str, number: int) -> None:
        if payer == "dave" and not self.model.granted:
            return
        operator, charge = OPERATORS[number % 2], CHARGES[number % len(CHARGES)]
        work = self.town.work(payer, operator, charge, parts=1 + (charge % 2 == 0), matures=number % 3 == 0)
        self.jobs += 1
        self.doubtful = (payer, operator, charge)
        with contextlib.suppress(Refused):
            self.do(work)
            self.count(*self.doubtful)
        self.doubtful = None

    def count(self, payer: str, operator: int, charge: int) -> None:
        """Enter a job that was done into the model."""
        self.model.done(payer, address(operator), [charge] if charge % 2 else [charge // 2] * 2)

    def cash(self, number: int) -> None:
        operator = OPERATORS[number % 2]
        cheque = self.do(self.cheques.latest(address(operator)))
        if cheque is not None and self.touch():
            self.cashed = self.touched
            assert cheque.earned <= self.model.earned[address(operator)]
            with contextlib.suppress(Reverted):
                self.do(self.driver.cash(operator, cheque.epoch, cheque.earned))

    # The coordinators

    async def settle(self, steps: int, *, mines: bool, town: Town | None = None) -> None:
        for _ in range(steps):
            await (town or self.town).settlement.step()
            if mines:
                await self.driver.mine()

    async def back_office(self) -> None:
        await self.town.watcher.poll()
        await mature_due(self.books, self.clock)
        await self.cheques.sign_due(NanoUsd(self.memory._state.bond))

    def works_at_the_desk(self, _number: int) -> None:
        self.do(self.back_office())

    def settles(self, number: int) -> None:
        town = self.twin if number % 3 == 0 else self.town
        self.do(self.settle(1 + number % 7, mines=number % 2 == 0, town=town))

    def ends_an_epoch(self, number: int) -> None:
        self.do(self.back_office())
        self.do(self.town.end_epoch())
        self.settles(number)

    def both_settle_at_once(self, number: int) -> None:
        """As if the lease had failed; whoever comes second is refused by the books, and tries again."""

        async def one(town: Town) -> None:
            for _ in range(4):
                with contextlib.suppress(Unavailable):
                    await town.settlement.step()
                await self.driver.mine()

        async def both() -> None:
            await asyncio.gather(one(self.town), one(self.twin))

        self.books.pauses = [number // 4**place % 4 for place in range(5)] * 4
        self.do(both())
        self.books.pauses = []

    def die(self) -> None:
        self.books.die()
        self.loop.end()
        self.loop.broken.clear()
        self.memory.patience = None
        self.start(HandBooks(place()))
        ((done,),) = self.books.query("SELECT count(*) FROM job")
        if self.doubtful is not None and done > self.model.jobs:
            self.count(*self.doubtful)
        self.doubtful = None
        self.model.granted = sum(
            row[0] for row in self.books.query("SELECT deposited FROM account WHERE id = 'dave'")
        )

    # The chain

    def waits(self, number: int) -> None:
        self.pass_time((5, 61, 100)[number % 3])

    def pass_time(self, seconds: int) -> None:
        self.do(self.driver.wait(seconds))
        self.clock.advance(seconds * 1000)

    def mines(self, number: int) -> None:
        self.do(self.driver.mine(1 + number % 3))

    def reorganise(self, number: int) -> None:
        self.take_back(self.height() - 1 - number % 6)

    def take_back(self, height: int) -> None:
        """Let the chain lose what is above a block, but for how the market began.

        If it loses what the books have seen closed for good, it keeps what people did: a closed epoch is sent
        again as it was, and nobody can help it if its consumers have no money there any more. A cheque that
        counts for good stays, too: the row that it overtook is in the books for what was left.
        """
        height = max(height, self.first_block)
        if self.cashed <= self.height() - CONFIRMATIONS:
            height = max(height, self.cashed)
        if self.has_lost(self.memory._blocks[min(height, self.height())].ledger.next_epoch):
            height = max(height, self.touched)
        depth = self.height() - height
        if depth > 0:
            self.model.reorganised(self.height() - depth)
            self.do(self.driver.reorganise(depth))

    def has_lost(self, next_epoch: int) -> bool:
        """Say whether epochs that the books have closed are open on a chain that goes on with this one."""
        ((last,),) = self.books.query("SELECT max(number) FROM epoch WHERE state = 'closed'")
        return last is not None and last >= next_epoch

    def touch(self) -> bool:
        """Note that people move money or rights; return whether they may, by `take_back`."""
        self.touched = self.height() + 1
        return not self.has_lost(self.memory._state.next_epoch)

    def forgets_an_epoch(self, number: int) -> None:
        """The chain loses an epoch that the books have closed, with the next one on its way."""
        before = self.height()
        self.work(number)
        self.ends_an_epoch(number)
        self.do(self.settle(8 + number % 8, mines=True))
        self.work(number + 1)
        self.ends_an_epoch(number)
        self.take_back(before)

    def is_congested_or_clears(self, number: int) -> None:
        """Nothing is mined for a while; what waited comes late, or never."""
        self.memory.holds_back = not self.memory.holds_back
        if number % 2:
            self.memory.lose_waiting()

    def goes_down_in_the_middle(self, number: int) -> None:
        self.memory.patience = number % 12
        self.do(self.back_office())
        self.memory.patience = number % 13
        self.settles(number)
        self.memory.patience = None

    # Laws

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.end_well()
        finally:
            self.put_away(self.books)

    def end_well(self) -> None:
        """Give everybody money, rights and time, and see that nothing is left."""
        self.memory.holds_back = False
        self.loop.do(self.driver.deposit(OWNER, 100 * USD, 2**63 - 1))
        self.move(100 * USD)
        for one in CONSUMERS:
            self.loop.do(self.driver.request_withdrawal(one, 0))
            self.deposit(one, 100 * USD, 10_000 * USD)
        self.loop.do(self.driver.mine(CONFIRMATIONS))
        self.loop.do(self.back_office())
        # Credit that a cheque has paid for is settled with the next epoch: there is one.
        self.work_for(PAYERS[0], 3)
        for _ in range(4):
            self.loop.do(self.back_office())
            self.loop.do(self.town.end_epoch())
            self.loop.do(self.town.settle())
            if self.is_settled():
                break
        self.check_step()
        assert self.is_settled()
        self.loop.do(self.town.check())
        assert list(self.loop.do(audit_epochs(self.books, self.town.files, self.driver.domain))) == []
        left = self.loop.do(self.books.read(winding.remaining))
        assert left.is_wound_down
        assert left.unconsented == 0
        assert left.credit == self.model.granted - self.model.spent["dave"]

    @invariant()
    def check_step(self) -> None:
        if not self.first_block:
            return
        assert self.loop.broken == []
        self.check_chain()
        self.model.check_books(self.books)
        self.is_sound = True

    def check_chain(self) -> None:
        self.model.check_chain(self.memory._state)

    def is_settled(self) -> bool:
        return self.model.is_settled(self.memory._state, self.books)


TestSettlement = pytest.mark.timeout(1200)(SettlementMachine.TestCase)
TestSettlement.settings = machine_settings(examples=EXAMPLES, steps=50)
