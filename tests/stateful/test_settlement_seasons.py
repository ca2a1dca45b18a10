"""Seasons of a market, drawn at random: whatever happens, books and chain agree to the nano-dollar."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Refused
from marketplace.storage.queries import settlement as queries
from tallystick.evm import Reverted
from tests.support.anvil import LONG_TERMS, OWNER, USD
from tests.support.chains import MemoryDriver, address
from tests.support.settling import CONFIRMATIONS, Town, town

CONSUMERS, OPERATORS = (2, 3, 4, 5), (6, 7, 8)
EVENTS = 80
BOND = 50 * USD


class Season:
    """What can happen in a town; each event leaves it for the next to find."""

    def __init__(self, made: Town, draw: random.Random, *, treasury: int) -> None:
        self.town = made
        self.draw = draw
        self.put_in = BOND + treasury
        self.credit = 0
        assert isinstance(made.driver, MemoryDriver)
        self.memory = made.driver.memory

    def events(self) -> list[Callable[[], Awaitable[None]]]:
        """Return the events; the frequent ones are there more than once."""
        return [
            *[self.work] * 9,
            *[self.settle] * 3,
            self.deposit,
            self.deposit,
            self.authorize,
            self.sign,
            self.grant,
            self.ask_for_withdrawal,
            self.thaw_and_withdraw,
            self.cash,
            self.half_a_settlement,
            self.reorganise,
            self.restart,
        ]

    async def deposit(self) -> None:
        amount = self.draw.randrange(1, 5 * USD // 1000) * 1000
        self.put_in += amount
        await self.town.consumer(self.draw.choice(CONSUMERS), amount, self.draw.choice((0, 0, 3 * USD)))

    async def authorize(self) -> None:
        who = self.draw.choice(CONSUMERS)
        right = (await self.town.on_chain(who)).authorized
        await self.town.driver.authorize(who, right + self.draw.randrange(2 * USD))
        await self.town.confirm()

    async def work(self) -> None:
        accounts = [address(who) for who in CONSUMERS] + (["dave"] if self.credit else [])
        charge = self.draw.choice((7, 123_456_789, 700_000_001, 1_900_000_000))
        try:
            await self.town.work(self.draw.choice(accounts), self.draw.choice(OPERATORS), charge)
        except Refused:
            return

    async def sign(self) -> None:
        who = self.draw.choice(CONSUMERS)
        try:
            spent = (await self.town.account(address(who))).spent
        except AssertionError:
            return
        if spent:
            await self.town.sign(who, spent)

    async def grant(self) -> None:
        amount = self.draw.randrange(1, 2 * USD)
        treasury = await self.town.account(TREASURY_ID)
        if treasury.balance - treasury.granted - treasury.requested < amount:
            return
        if self.credit:
            return
        self.credit += amount
        await self.town.on_credit("dave", amount)

    async def ask_for_withdrawal(self) -> None:
        who = self.draw.choice(CONSUMERS)
        amount = self.draw.choice((0, USD, 2**64 - 1))
        await self.town.driver.request_withdrawal(who, amount)
        await self.town.watcher.poll()

    async def thaw_and_withdraw(self) -> None:
        await self.town.settle()
        for _ in range(LONG_TERMS.thaw // LONG_TERMS.epoch_length):
            await self.town.end_epoch()
            await self.town.settle()
        before = await self.deposits()
        try:
            await self.town.driver.withdraw(self.draw.choice(CONSUMERS))
        except Reverted:
            return
        self.put_in -= before - await self.deposits()
        await self.town.confirm()

    async def cash(self) -> None:
        who = self.draw.choice(OPERATORS)
        try:
            earned = (await self.town.account(address(who))).earned
            await self.town.driver.cash(who, 0, earned)
        except (AssertionError, Reverted):
            return
        await self.town.confirm()

    async def settle(self) -> None:
        await self.town.end_epoch()
        await self.town.settle()

    async def half_a_settlement(self) -> None:
        await self.town.end_epoch()
        for _ in range(self.draw.randrange(5)):
            await self.town.settlement.step()

    async def reorganise(self) -> None:
        # Empty blocks first: what people sent stays, what the coordinator sent may be lost.
        await self.town.driver.mine(CONFIRMATIONS)
        await self.town.watcher.poll()
        await self.town.settlement.step()
        await self.town.driver.reorganise(1)
        await self.town.watcher.poll()

    async def restart(self) -> None:
        self.town.restart()

    async def deposits(self) -> int:
        """Return what all balances on the chain add up to."""
        found = await self.town.driver.chain.accounts([address(who) for who in (OWNER, *CONSUMERS)])
        return sum(account.balance for account in found.values())

    async def check_conservation(self) -> None:
        """What was put in and not withdrawn is in a balance, an earning, the pool or the bond."""
        people = [address(who) for who in (OWNER, *CONSUMERS, *OPERATORS)]
        found = await self.town.driver.chain.accounts(people)
        ledger = await self.town.driver.chain.ledger()
        there = sum(account.balance + account.earned for account in found.values())
        assert there + ledger.pool + ledger.bond == self.put_in
        treasury = await self.town.account(TREASURY_ID)
        assert treasury.balance >= treasury.granted


@pytest.mark.parametrize("seed", range(10))
async def test_a_season(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    treasury = draw.choice((USD, 3 * USD, 20 * USD))
    async with town(
        "memory", tmp_path, bond=BOND, treasury=treasury, rows_per_chunk=draw.choice((1, 2, 100))
    ) as made:
        season = Season(made, draw, treasury=treasury)
        for _ in CONSUMERS:
            await season.deposit()
        for _ in range(EVENTS):
            await draw.choice(season.events())()
            await season.check_conservation()
        for _ in range(5):
            await season.settle()
        await season.check_conservation()
        await made.check()
        assert await made.database.read(queries.last_sealed) is not None
