"""One key, one transaction at a time: whatever happens to it, its purpose is served once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marketplace.domain.ports.chain import Batch, BatchRefused, Charge, Outcome, Payout
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.transactions import Transactions
from marketplace.storage.database import Database
from marketplace.storage.queries import transactions as queries
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import LONG_TERMS, USD
from tests.support.chains import MemoryDriver, address

ALICE, BOB = 3, 4
CONFIRMATIONS = 2
CHARGE = Batch(0, 0, (Charge(address(ALICE), NanoUsd(USD)),), ())
PURPOSE = "settle/0/0"


@dataclass
class Setting:
    """A chain on which epoch 0 is over and Alice can be charged, and the sender's book."""

    driver: MemoryDriver
    database: Database
    clock: ManualClock

    def transactions(self) -> Transactions:
        """Return the service as a process that has just started makes it."""
        memory = self.driver.memory
        return Transactions(
            self.database, memory, memory, self.clock, confirmations=CONFIRMATIONS, stuck_after_ms=1_000
        )

    async def state(self) -> str:
        row = await self.database.read(lambda session: queries.find(session, PURPOSE))
        return "none" if row is None else row.state


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    driver = MemoryDriver()
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    await driver.deposit(ALICE, 5 * USD, authorized=5 * USD)
    await driver.wait(LONG_TERMS.epoch_length)
    yield Setting(driver, database, ManualClock())
    await database.close()


async def test_a_transaction_is_sent_and_its_outcome_is_told(setting: Setting) -> None:
    transactions = setting.transactions()
    assert await transactions.push(PURPOSE, CHARGE) is None
    outcome = await transactions.push(PURPOSE, CHARGE)
    assert outcome is not None
    assert outcome.succeeded
    assert await setting.state() == "mined"
    assert await setting.transactions().push(PURPOSE, CHARGE) == outcome
    assert await setting.driver.sender.used_nonces() == 1


async def test_a_batch_that_would_be_refused_is_not_sent(setting: Setting) -> None:
    bad = Batch(0, 0, (Charge(address(ALICE), NanoUsd(6 * USD)),), ())
    with pytest.raises(BatchRefused, match="beyond right"):
        await setting.transactions().push(PURPOSE, bad)
    assert await setting.state() == "none"
    assert await setting.driver.sender.next_nonce() == 0


async def test_another_process_goes_on_with_the_same_transaction(setting: Setting) -> None:
    await setting.driver.hold_back(True)
    await setting.transactions().push(PURPOSE, CHARGE)
    setting.driver.memory._waiting.clear()
    other = setting.transactions()
    assert await other.push(PURPOSE, CHARGE) is None
    assert await setting.driver.sender.next_nonce() == 1
    await setting.driver.hold_back(False)
    await setting.driver.mine()
    assert await other.push(PURPOSE, CHARGE) is not None
    assert await setting.driver.sender.used_nonces() == 1


async def test_a_second_purpose_gets_the_next_nonce_although_the_first_was_not_broadcast(
    setting: Setting,
) -> None:
    await setting.driver.hold_back(True)
    await setting.transactions().push(PURPOSE, CHARGE)
    setting.driver.memory._waiting.clear()
    await setting.transactions().push("another", CHARGE)
    row = await setting.database.read(lambda session: queries.find(session, "another"))
    assert row is not None
    assert row.nonce == 1


async def test_a_transaction_that_failed_is_refused_once_its_failure_is_final(setting: Setting) -> None:
    transactions = setting.transactions()
    await setting.driver.request_withdrawal(ALICE, 5 * USD)
    await setting.driver.wait(LONG_TERMS.thaw)
    await setting.driver.hold_back(True)
    await transactions.push(PURPOSE, CHARGE)
    await setting.driver.withdraw(ALICE)
    await setting.driver.mine()
    assert await transactions.push(PURPOSE, CHARGE) is None
    assert await setting.state() == "signed"
    await setting.driver.mine(CONFIRMATIONS)
    with pytest.raises(BatchRefused, match="beyond right"):
        await transactions.push(PURPOSE, CHARGE)
    assert await setting.state() == "failed"
    await setting.driver.hold_back(False)
    nothing = Batch(0, 0, (), (Payout(address(BOB), NanoUsd(0)),))
    await transactions.push(PURPOSE, nothing)
    assert await transactions.push(PURPOSE, nothing) is not None


async def test_a_nonce_of_which_nothing_is_kept_is_skipped_if_the_chain_gives_it_back(
    setting: Setting,
) -> None:
    """The chain loses a failure that was final, and what was sent in its place waits for that nonce."""
    transactions, memory = setting.transactions(), setting.driver.memory
    await setting.driver.request_withdrawal(ALICE, 5 * USD)
    await setting.driver.wait(LONG_TERMS.thaw)
    before = (await memory.head()).number
    await setting.driver.hold_back(True)
    await transactions.push(PURPOSE, CHARGE)
    await setting.driver.withdraw(ALICE)
    await setting.driver.mine(1 + CONFIRMATIONS)
    with pytest.raises(BatchRefused):
        await transactions.push(PURPOSE, CHARGE)
    await setting.driver.hold_back(False)
    nothing = Batch(0, 0, (), (Payout(address(BOB), NanoUsd(0)),))
    await transactions.push(PURPOSE, nothing)
    assert await transactions.push(PURPOSE, nothing) is not None
    memory.reorganise((await memory.head()).number - before)
    assert await memory.used_nonces() == 0
    assert await transactions.push(PURPOSE, nothing) is None
    assert await transactions.push(PURPOSE, nothing) is not None
    assert await memory.used_nonces() == 2


async def test_a_nonce_that_somebody_else_took_is_given_up_and_the_purpose_served_with_another(
    setting: Setting,
) -> None:
    transactions, sender = setting.transactions(), setting.driver.sender
    await setting.driver.hold_back(True)
    await transactions.push(PURPOSE, CHARGE)
    stranger = await sender.sign(Batch(0, 0, (), ()), 0)
    await sender.broadcast(stranger.raw)
    await setting.driver.hold_back(False)
    await setting.driver.mine()
    assert await transactions.push(PURPOSE, CHARGE) is None
    assert await setting.state() == "signed"
    await setting.driver.mine(CONFIRMATIONS)
    assert await transactions.push(PURPOSE, CHARGE) is None
    assert await setting.state() == "replaced"
    second = Batch(0, 1, CHARGE.charges, ())
    await transactions.push(PURPOSE, second)
    assert await transactions.push(PURPOSE, second) is not None
    assert await sender.used_nonces() == 2


async def test_a_stuck_transaction_bids_once_for_each_wait_and_keeps_its_nonce(setting: Setting) -> None:
    transactions, hashes = setting.transactions(), []
    await setting.driver.hold_back(True)
    await transactions.push(PURPOSE, CHARGE)
    for _ in range(3):
        for _ in range(2):
            await transactions.push(PURPOSE, CHARGE)
        row = await setting.database.read(lambda session: queries.find(session, PURPOSE))
        assert row is not None
        assert row.nonce == 0
        hashes.append(row.hash)
        setting.clock.advance(1_000)
    assert len(set(hashes)) == 3
    assert await setting.driver.sender.next_nonce() == 1
    await setting.driver.hold_back(False)
    await setting.driver.mine()
    assert await transactions.push(PURPOSE, CHARGE) is not None


async def test_a_transaction_that_a_reorganisation_removed_is_sent_again(setting: Setting) -> None:
    transactions = setting.transactions()
    await setting.driver.mine(3)
    await transactions.push(PURPOSE, CHARGE)
    assert await transactions.push(PURPOSE, CHARGE) is not None
    await setting.driver.reorganise(1)
    assert await transactions.outcome(PURPOSE) is None
    assert await transactions.push(PURPOSE, CHARGE) is None
    assert await transactions.push(PURPOSE, CHARGE) is not None
    assert (await setting.driver.chain.accounts([address(ALICE)]))[address(ALICE)].spent == USD


async def test_a_receipt_that_a_node_keeps_of_a_block_taken_back_is_not_believed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anvil can keep one, and so can one of several nodes behind an address."""
    transactions = setting.transactions()
    await transactions.push(PURPOSE, CHARGE)
    stale = await transactions.push(PURPOSE, CHARGE)
    assert stale is not None

    async def always(_transaction: bytes) -> Outcome:
        return stale

    monkeypatch.setattr(setting.driver.memory, "outcome", always)
    setting.driver.memory.reorganise(2)
    assert await setting.driver.sender.used_nonces() == 0
    assert await transactions.push(PURPOSE, CHARGE) is None
    assert await setting.driver.sender.used_nonces() == 1
    assert (await setting.driver.chain.accounts([address(ALICE)]))[address(ALICE)].spent == USD


async def test_one_that_nobody_asks_for_any_more_is_sent_again_if_the_next_waits_for_its_nonce(
    setting: Setting,
) -> None:
    """As when an epoch has fewer chunks than before: a chain that forgot it would mine nothing any more."""
    memory, transactions = setting.driver.memory, setting.transactions()
    later = Batch(0, 0, (Charge(address(ALICE), NanoUsd(2 * USD)),), ())
    await setting.driver.hold_back(True)
    await transactions.push("settle/0/1", CHARGE)
    await transactions.push(PURPOSE, later)
    memory._waiting.clear()
    await setting.driver.hold_back(False)
    for _ in range(4):
        await transactions.push(PURPOSE, later)
    assert await setting.driver.sender.used_nonces() == 2


async def test_two_processes_that_make_a_transaction_for_one_purpose_at_once_send_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find none in the books; what the second has signed must not take the first one's place."""
    memory = setting.driver.memory
    memory.holds_back = True
    sent: set[bytes] = set()
    broadcast = memory.broadcast

    async def overheard(raw: bytes) -> None:
        sent.add(raw)
        await broadcast(raw)

    monkeypatch.setattr(memory, "broadcast", overheard)
    dearer = Batch(0, 0, (Charge(address(ALICE), NanoUsd(2 * USD)),), ())
    await asyncio.gather(
        setting.transactions().push(PURPOSE, CHARGE), setting.transactions().push(PURPOSE, dearer)
    )
    stored = await setting.database.read(lambda session: queries.find(session, PURPOSE))
    assert stored is not None
    assert sent == {stored.raw}
    memory.mine()
    outcome = await memory.outcome(stored.hash)
    assert outcome is not None
    assert outcome.succeeded


async def test_what_the_books_do_not_want_any_more_is_not_sent(setting: Setting) -> None:
    transactions = setting.transactions()
    assert await transactions.push(PURPOSE, CHARGE, lambda _session: False) is None
    assert await setting.state() == "none"
    assert await setting.driver.memory.used_nonces() == 0
    setting.driver.memory.holds_back = True
    await transactions.push(PURPOSE, CHARGE)
    before = await setting.database.read(lambda session: queries.find(session, PURPOSE))
    setting.clock.advance(1_000)
    await transactions.push(PURPOSE, CHARGE, lambda _session: False)
    after = await setting.database.read(lambda session: queries.find(session, PURPOSE))
    assert before is not None
    assert after is not None
    assert after.hash == before.hash
