"""Deposits, settlement, withdrawals and leases on every database that the books can be in."""

from pathlib import Path

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.leases import WorkLease
from marketplace.services.settlement import EpochProofs
from marketplace.storage.database import Database
from tallystick.protocol.merkle import verify
from tests.support.anvil import LONG_TERMS, USD
from tests.support.chains import address
from tests.support.settling import town

ALICE, BOB, OPERATOR, RIVAL = 3, 4, 6, 7


async def test_a_season_of_work_is_settled_and_paid_out(books_url: str, tmp_path: Path) -> None:
    async with town("memory", tmp_path, books_url=books_url, rows_per_chunk=2) as made:
        alice = await made.consumer(ALICE, 10 * USD, authorized=10 * USD)
        bob = await made.consumer(BOB, 10 * USD)
        dave = await made.on_credit("dave", 20 * USD)
        for account_id in (alice, bob, dave):
            await made.work(account_id, OPERATOR, 2 * USD, parts=2)
            await made.work(account_id, RIVAL, 1 * USD)
        await made.sign(BOB, 3 * USD)
        epoch = await made.end_epoch()
        await made.settle()
        assert (await made.on_chain(ALICE)).spent == (await made.on_chain(BOB)).spent == 3 * USD
        assert (await made.on_chain(OPERATOR)).earned == 6 * USD * 95 // 100
        assert (await made.account(TREASURY_ID)).granted == 17 * USD
        await made.driver.request_withdrawal(ALICE, 2**64 - 1)
        await made.driver.wait(LONG_TERMS.thaw)
        await made.driver.withdraw(ALICE)
        await made.confirm()
        assert (await made.account(alice)).balance == 0
        await made.check()
        proofs = EpochProofs(made.database)
        row = await made.epoch(epoch)
        assert row is not None
        ids = made.files.load(row.file_hash).receipt_ids
        assert len(ids) == 9
        for place, receipt_id in enumerate(ids):
            inclusion = await proofs.inclusion(epoch, receipt_id)
            assert inclusion is not None
            assert inclusion.proof.index == place
            assert verify(inclusion.root, receipt_id, inclusion.proof)


async def test_a_deposit_that_was_undone_leaves_the_books_right(books_url: str, tmp_path: Path) -> None:
    async with town("memory", tmp_path, books_url=books_url) as made:
        await made.driver.mine(5)
        await made.consumer(ALICE, 10 * USD, authorized=10 * USD)
        await made.driver.reorganise(4)
        await made.watcher.poll()
        assert (await made.account(address(ALICE))).balance == 0
        await made.check()


async def test_a_lease_passes_from_one_process_to_another(database: Database) -> None:
    clock = ManualClock()
    first = WorkLease(database, clock, holder="first", lasts_ms=3_000)
    second = WorkLease(database, clock, holder="second", lasts_ms=3_000)
    assert await first.renew()
    assert not await second.renew()
    clock.advance(3_000)
    assert await second.renew()
    assert not await first.renew()
