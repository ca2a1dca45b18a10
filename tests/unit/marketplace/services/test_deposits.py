"""What the chain says enters the books once, and leaves them when the chain takes it back."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marketplace.domain.errors import BadRequest
from marketplace.domain.ports.chain import StakeChanged
from marketplace.domain.ports.clock import ManualClock
from marketplace.domain.ports.stake import NodeStake
from marketplace.services import deposits
from marketplace.services.audit_chain import audit_chain
from marketplace.services.audit_events import audit_events
from marketplace.services.consents import Consents
from marketplace.services.deposits import ChainWatcher
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.tables import Account
from tallystick.protocol.keys import SigningKey
from tests.support.anvil import LONG_TERMS, USD
from tests.support.chains import ChainDriver, MemoryDriver, address, chain_driver, consent
from tests.support.nodes import key_of

ALICE, BOB = 3, 4
CONFIRMATIONS = 3


class Crash(BaseException):
    """The end of a process."""


@dataclass
class Setting:
    """A chain, books, and the watcher between them."""

    driver: ChainDriver
    database: Database
    watcher: ChainWatcher
    stake_changes: list[int] = field(default_factory=list)

    async def books(self, who: int) -> Account | None:
        """Return what the books have of an account."""
        return await self.database.read(lambda session: accounts.by_address(session, address(who)))

    async def balance(self, who: int) -> int:
        account = await self.books(who)
        return 0 if account is None else account.balance

    async def confirm(self) -> None:
        """Bury what happened, and read it."""
        await self.driver.mine(CONFIRMATIONS)
        await self.watcher.poll()


@pytest.fixture(params=["memory", pytest.param("anvil", marks=pytest.mark.anvil)])
async def setting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Setting]:
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    async with chain_driver(request.param) as driver:
        changes: list[int] = []
        watcher = ChainWatcher(
            database,
            driver.chain,
            ManualClock(),
            confirmations=CONFIRMATIONS,
            first_block=0,
            stakes_changed=lambda: changes.append(1),
        )
        yield Setting(driver, database, watcher, changes)
    await database.close()


async def test_a_deposit_counts_after_its_confirmations_and_not_before(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD, authorized=2 * USD)
    for _ in range(CONFIRMATIONS):
        await setting.watcher.poll()
        assert await setting.balance(ALICE) == 0
        await setting.driver.mine()
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.deposited, account.authorized) == (5 * USD, 5 * USD, 2 * USD)


async def test_a_deposit_is_credited_once_however_often_it_is_read(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    await setting.confirm()
    other = ChainWatcher(
        setting.database, setting.driver.chain, ManualClock(), confirmations=0, first_block=0
    )
    await other.poll()
    assert await setting.balance(ALICE) == 5 * USD
    await setting.driver.deposit(ALICE, 1 * USD)
    await setting.confirm()
    assert await setting.balance(ALICE) == 6 * USD


async def test_a_request_counts_as_gone_the_moment_it_is_seen(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    await setting.driver.request_withdrawal(ALICE, 3 * USD)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.requested) == (5 * USD, 3 * USD)
    assert account.requested_payable_at % 1000 == 0
    await setting.driver.request_withdrawal(ALICE, 0)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert account.requested == 0


async def test_a_request_for_everything_takes_everything_out_of_reach(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    await setting.driver.request_withdrawal(ALICE, 2**64 - 1)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert account.requested >= account.balance


async def test_a_withdrawal_is_booked_at_once_with_the_right_that_left_with_it(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD, authorized=4 * USD)
    await setting.confirm()
    await setting.driver.request_withdrawal(ALICE, 5 * USD)
    await setting.watcher.poll()
    await setting.driver.wait(LONG_TERMS.thaw)
    await setting.driver.withdraw(ALICE)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.requested, account.withdrawn) == (0, 0, 5 * USD)
    assert account.authorized == 0
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert account.authorized == 0


async def test_a_shallow_reorganisation_never_credits_the_deposit_it_removed(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.watcher.poll()
    await setting.driver.reorganise(2)
    await setting.confirm()
    assert await setting.balance(ALICE) == 0
    await setting.driver.deposit(ALICE, 2 * USD)
    await setting.confirm()
    assert await setting.balance(ALICE) == 2 * USD


async def test_a_deep_reorganisation_takes_a_credited_deposit_back(setting: Setting) -> None:
    await setting.driver.deposit(BOB, 1 * USD)
    await setting.driver.mine(6)
    await setting.driver.deposit(ALICE, 5 * USD, authorized=3 * USD)
    await setting.confirm()
    assert await setting.balance(ALICE) == 5 * USD
    await setting.driver.reorganise(CONFIRMATIONS + 4)
    await setting.driver.deposit(ALICE, 2 * USD)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.authorized) == (2 * USD, 0)
    assert await setting.balance(BOB) == 1 * USD


async def test_a_consent_key_that_a_reorganisation_removed_signs_no_more(setting: Setting) -> None:
    kept, gone = key_of(7), key_of(8)
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.driver.add_consent_key(ALICE, kept.address)
    await setting.driver.mine(6)
    await setting.driver.add_consent_key(ALICE, gone.address)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    await setting.database.write(lambda s: accounts.change(s, account.id, spent=2 * USD))
    consents = Consents(setting.database, setting.driver.domain)

    async def store(key: SigningKey, spent: int) -> int:
        signed = consent(setting.driver.domain, ALICE, spent, key=key)
        return await consents.store(account.id, spent, signed.signature)

    assert await store(gone, USD) == USD
    await setting.driver.reorganise(CONFIRMATIONS + 3)
    await setting.confirm()
    with pytest.raises(BadRequest, match="not by"):
        await store(gone, 2 * USD)
    forgotten = await setting.books(ALICE)
    assert forgotten is not None
    assert (forgotten.consented, forgotten.consent_signature) == (0, None)
    assert await store(kept, 2 * USD) == 2 * USD


async def test_a_withdrawal_that_a_reorganisation_removed_is_requested_again(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    await setting.driver.request_withdrawal(ALICE, 3 * USD)
    await setting.driver.wait(LONG_TERMS.thaw)
    await setting.driver.mine(3)
    await setting.driver.withdraw(ALICE)
    await setting.watcher.poll()
    assert await setting.balance(ALICE) == 2 * USD
    await setting.driver.reorganise(1)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.requested, account.withdrawn) == (5 * USD, 3 * USD, 0)


async def test_a_request_that_a_reorganisation_removed_is_forgotten(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    await setting.driver.mine(2)
    await setting.driver.request_withdrawal(ALICE, 3 * USD)
    await setting.watcher.poll()
    await setting.driver.reorganise(1)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert account.requested == 0


async def test_a_request_whose_cancellation_a_reorganisation_removed_stands_again_however_old(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.services.deposits.DEEPEST_REORGANISATION", 8)
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.driver.request_withdrawal(ALICE, 3 * USD)
    await setting.driver.mine(20)
    await setting.watcher.poll()
    asked = await setting.books(ALICE)
    assert asked is not None
    assert asked.requested == 3 * USD
    await setting.driver.request_withdrawal(ALICE, 0)
    await setting.driver.mine()
    await setting.watcher.poll()
    cancelled = await setting.books(ALICE)
    assert cancelled is not None
    assert cancelled.requested == 0
    await setting.driver.reorganise(2)
    await setting.watcher.poll()
    again = await setting.books(ALICE)
    assert again is not None
    assert (again.requested, again.requested_payable_at) == (3 * USD, asked.requested_payable_at)


async def test_a_restarted_watcher_goes_on_where_the_last_one_stopped(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    await setting.driver.deposit(ALICE, 1 * USD)
    await setting.driver.mine(CONFIRMATIONS)
    other = ChainWatcher(
        setting.database, setting.driver.chain, ManualClock(), confirmations=CONFIRMATIONS, first_block=0
    )
    await other.poll()
    assert await setting.balance(ALICE) == 6 * USD


async def crash_in_the_middle_of_a_block(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a deposit come with a right in one transaction, and the process end when one of both is booked."""
    await setting.driver.mine(5)
    await setting.driver.deposit(ALICE, 5 * USD, authorized=2 * USD)
    await setting.watcher.poll()
    await setting.driver.mine(CONFIRMATIONS)

    def crash(point: str) -> None:
        if point == "deposits.after_confirmed":
            raise Crash

    monkeypatch.setattr(deposits, "EVENTS_A_WRITE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(deposits, "reach", crash)
        with pytest.raises(Crash):
            await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.authorized) in ((5 * USD, 0), (0, 2 * USD))
    assert await audit_chain(setting.database, setting.driver.chain) == []
    assert await audit_events(setting.database, setting.driver.chain, 0) == []


async def test_a_crash_in_the_middle_of_a_block_loses_nothing_and_books_nothing_twice(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crash_in_the_middle_of_a_block(setting, monkeypatch)
    await setting.watcher.poll()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.deposited, account.authorized) == (5 * USD, 5 * USD, 2 * USD)
    assert await audit_events(setting.database, setting.driver.chain, 0) == []


async def test_a_block_that_vanishes_when_half_of_it_is_booked_is_taken_back(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crash_in_the_middle_of_a_block(setting, monkeypatch)
    await setting.driver.reorganise(CONFIRMATIONS + 1)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.deposited, account.authorized) == (0, 0, 0)
    await setting.driver.deposit(ALICE, 3 * USD, authorized=USD)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.deposited, account.authorized) == (3 * USD, 3 * USD, USD)
    assert await audit_chain(setting.database, setting.driver.chain) == []
    assert await audit_events(setting.database, setting.driver.chain, 0) == []


async def test_whoever_keeps_stakes_hears_that_they_moved(tmp_path: Path) -> None:
    driver, changes = MemoryDriver(), []
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    watcher = ChainWatcher(
        database,
        driver.chain,
        ManualClock(),
        confirmations=2,
        first_block=0,
        stakes_changed=lambda: changes.append(1),
    )
    await watcher.poll()
    assert changes == []
    driver.memory.set_stake(address(BOB), NodeStake(address(BOB), True, 1, True))
    assert isinstance((await driver.chain.events(0, 99))[-1], StakeChanged)
    await watcher.poll()
    await watcher.poll()
    assert changes == [1]
    await database.close()


async def test_rights_that_are_read_again_after_a_reorganisation_do_not_fall(setting: Setting) -> None:
    await setting.driver.deposit(ALICE, 9 * USD, authorized=2 * USD)
    await setting.driver.authorize(ALICE, 8 * USD)
    await setting.driver.mine(CONFIRMATIONS)
    await setting.confirm()
    await setting.driver.reorganise(1)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert account.authorized == 8 * USD


async def test_more_money_than_the_books_can_count_does_not_stop_the_others(setting: Setting) -> None:
    """Where anybody can mint the token, anybody can deposit more than a column holds."""
    for _ in range(2):
        await setting.driver.deposit(ALICE, 9_000_000_000 * USD)
    await setting.driver.deposit(BOB, 1 * USD)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert account.balance == account.deposited == 2**62
    assert await setting.balance(BOB) == 1 * USD
    await setting.driver.request_withdrawal(ALICE, 2**64 - 1)
    await setting.driver.wait(LONG_TERMS.thaw)
    await setting.driver.withdraw(ALICE)
    await setting.driver.deposit(ALICE, 5 * USD)
    await setting.confirm()
    account = await setting.books(ALICE)
    assert account is not None
    assert (account.balance, account.withdrawn, account.requested) == (0, 2**62, 0)
