"""Settlement from due rows to closed epochs, on the twin and on a real chain."""

from pathlib import Path

import pytest

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Broken
from marketplace.services import ledger
from marketplace.services.alarms import ALARMS
from marketplace.services.audit_chain import audit_chain
from marketplace.services.settlement import EpochProofs
from marketplace.services.settlement.files import read_file
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.merkle import receipt_tree, verify
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import OWNER, USD
from tests.support.chains import address
from tests.support.settling import MakeTown, Town
from tests.support.settling import town as town_in_memory

ALICE, BOB, CAROL, OPERATOR, RIVAL = 3, 4, 5, 6, 7


def alarms(kind: str) -> float:
    return ALARMS.labels(kind)._value.get()


async def test_consumers_are_charged_and_operators_credited_to_the_nano_dollar(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 3 * USD + 7)
    epoch = await town.end_epoch()
    await town.settle()
    fee = -(-(3 * USD + 7) * 500 // 10_000)
    assert (await town.on_chain(ALICE)).spent == 3 * USD + 7
    assert (await town.on_chain(OPERATOR)).earned == 3 * USD + 7 - fee
    assert (await town.on_chain(OWNER)).earned == fee
    ledger_now = await town.driver.chain.ledger()
    assert (ledger_now.next_epoch, ledger_now.pool) == (epoch + 1, 0)
    assert (await town.account(alice)).spent_settled == 3 * USD + 7
    assert (await town.account(address(OPERATOR))).earned_settled == 3 * USD + 7 - fee
    closed = await town.epoch(epoch)
    assert closed is not None
    assert (closed.state, closed.receipt_count) == ("closed", 1)
    assert closed.gas_used > 0
    await town.check()


async def test_an_epoch_in_which_nothing_is_due_is_not_sent(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, USD // 2)
    await town.end_epoch()
    nonce = await town.driver.sender.used_nonces()
    assert await town.settle() == 0
    assert await town.driver.sender.used_nonces() == nonce
    assert (await town.driver.chain.ledger()).next_epoch == 0


async def test_a_small_amount_gets_its_row_after_the_longest_wait(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, USD // 2)
    for _ in range(2):
        await town.end_epoch()
        await town.settle()
        assert (await town.on_chain(ALICE)).spent == 0
    for _ in range(2):
        await town.end_epoch()
        await town.settle()
    assert (await town.on_chain(ALICE)).spent == USD // 2
    await town.check()


async def test_who_spends_in_every_epoch_is_paid_by_the_epoch_on_its_cheque(tmp_path: Path) -> None:
    async with town_in_memory("memory", tmp_path) as town:
        both = await town.consumer(ALICE, 50 * USD, authorized=50 * USD)
        bob = await town.consumer(BOB, 10 * USD, authorized=10 * USD)
        await town.work(bob, ALICE, USD // 2)
        promised = town.terms.promised_epoch(town.clock.now_ms())
        closed = -1
        while closed < promised:
            await town.work(both, OPERATOR, 2 * USD)
            closed = await town.end_epoch()
            await town.settle()
        assert (await town.driver.chain.ledger()).next_epoch == promised + 1
        assert (await town.on_chain(ALICE)).earned == (await town.account(both)).earned == 475_000_000
        await town.check()


async def test_a_consumer_that_leaves_is_settled_first_whatever_it_owes(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    bob = await town.consumer(BOB, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, USD // 4)
    await town.work(bob, OPERATOR, USD // 4)
    await town.driver.request_withdrawal(ALICE, 2**64 - 1)
    await town.watcher.poll()
    await town.end_epoch()
    await town.settle()
    assert (await town.on_chain(ALICE)).spent == USD // 4
    assert (await town.on_chain(BOB)).spent == 0
    await town.check()


async def test_a_standing_request_for_little_settles_no_dust_and_one_for_what_is_owed_does(
    tmp_path: Path,
) -> None:
    async with town_in_memory("memory", tmp_path) as town:
        alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
        await town.driver.request_withdrawal(ALICE, 1)
        await town.watcher.poll()
        for _ in range(2):
            await town.work(alice, OPERATOR, 5_000)
            await town.end_epoch()
            assert await town.settle() == 0
        assert (await town.on_chain(ALICE)).spent == 0
        await town.driver.request_withdrawal(ALICE, 10 * USD - 10_000)
        await town.watcher.poll()
        await town.end_epoch()
        await town.settle()
        assert (await town.on_chain(ALICE)).spent == 10_000
        await town.check()


async def test_the_treasury_advances_what_small_consumers_have_not_brought_in_and_gets_it_back(
    small_town: Town,
) -> None:
    town = small_town
    ids = [await town.consumer(who, 10 * USD, authorized=10 * USD) for who in (ALICE, BOB, CAROL)]
    for account_id in ids:
        await town.work(account_id, OPERATOR, 600_000_000)
    await town.end_epoch()
    await town.settle()
    earned = 3 * (600_000_000 - 30_000_000)
    assert (await town.on_chain(OPERATOR)).earned == earned
    assert (await town.on_chain(OWNER)).spent == earned
    assert (await town.account(TREASURY_ID)).balance == 100 * USD - earned
    for account_id in ids:
        await town.work(account_id, RIVAL, 500_000_000)
    await town.end_epoch()
    await town.settle()
    owner = await town.on_chain(OWNER)
    assert owner.earned - owner.spent == 3 * 1_100_000_000 - earned - (await town.on_chain(RIVAL)).earned
    await town.check()


async def test_credit_is_charged_to_the_treasury_and_its_promise_is_kept(small_town: Town) -> None:
    town = small_town
    dave = await town.on_credit("dave", 20 * USD)
    await town.work(dave, OPERATOR, 4 * USD)
    await town.end_epoch()
    await town.settle()
    earned = 4 * USD * 95 // 100
    assert (await town.on_chain(OWNER)).spent == earned
    treasury = await town.account(TREASURY_ID)
    assert treasury.granted == 16 * USD
    assert treasury.balance == 100 * USD - earned
    assert treasury.balance >= treasury.granted
    await town.check()


async def test_what_the_treasury_cannot_advance_waits_and_what_it_has_goes_to_who_waited_longest(
    make_town: MakeTown,
) -> None:
    async with make_town(treasury=3 * USD, row_threshold=5 * USD, longest_wait_epochs=1) as town:
        before = alarms("payout_deferred")
        alice = await town.consumer(ALICE, 10 * USD)
        await town.work(alice, RIVAL, 2 * USD)
        town.clock.advance(5_000)
        await town.work(alice, OPERATOR, 2 * USD)
        await town.end_epoch()
        await town.end_epoch()
        await town.settle()
        assert (await town.on_chain(RIVAL)).earned == 1_900_000_000
        assert (await town.on_chain(OPERATOR)).earned == 3 * USD - 1_900_000_000
        assert alarms("payout_deferred") == before + 1
        await town.sign(ALICE, 4 * USD)
        await town.end_epoch()
        await town.end_epoch()
        await town.settle()
        assert (await town.on_chain(OPERATOR)).earned == 1_900_000_000
        await town.check()


async def test_an_advance_never_takes_what_covers_credit_that_is_not_spent(make_town: MakeTown) -> None:
    async with make_town(treasury=10 * USD) as town:
        await town.on_credit("dave", 9 * USD)
        alice = await town.consumer(ALICE, 10 * USD)
        await town.work(alice, OPERATOR, 4 * USD)
        await town.end_epoch()
        await town.settle()
        treasury = await town.account(TREASURY_ID)
        assert (await town.on_chain(OPERATOR)).earned == 1 * USD
        assert treasury.balance == treasury.granted == 9 * USD
        await town.check()


async def test_only_what_is_authorized_or_signed_for_is_charged(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=2 * USD)
    await town.work(alice, OPERATOR, 5 * USD)
    await town.end_epoch()
    await town.settle()
    assert (await town.on_chain(ALICE)).spent == 2 * USD
    assert (await town.account(alice)).spent_settled == 2 * USD
    await town.sign(ALICE, 4 * USD)
    await town.end_epoch()
    await town.settle()
    on_chain = await town.on_chain(ALICE)
    assert (on_chain.spent, on_chain.authorized) == (4 * USD, 4 * USD)
    await town.check()


async def test_a_cashed_cheque_is_not_paid_a_second_time(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    await town.end_epoch()
    await town.settle()
    await town.work(alice, OPERATOR, 2 * USD)
    await town.driver.cash(OPERATOR, 0, 3_800_000_000)
    await town.confirm()
    assert (await town.account(address(OPERATOR))).earned_settled == 3_800_000_000
    await town.end_epoch()
    await town.settle()
    assert (await town.on_chain(OPERATOR)).earned == 3_800_000_000
    await town.check()


async def test_many_rows_go_in_chunks_and_the_file_says_which_was_where(make_town: MakeTown) -> None:
    async with make_town(rows_per_chunk=2) as town:
        for who in (ALICE, BOB, CAROL):
            account_id = await town.consumer(who, 10 * USD, authorized=10 * USD)
            await town.work(account_id, OPERATOR, 2 * USD)
            await town.work(account_id, RIVAL, 2 * USD)
        epoch = await town.end_epoch()
        await town.settle()
        closed = await town.epoch(epoch)
        assert closed is not None
        assert closed.chunks == 3
        file = decode_epoch(await read_file(town.files, closed.file_hash))
        assert file.rows.chunks == ((2, 0), (1, 1), (0, 2))
        assert sum(row.amount for row in file.rows.charges) == 12 * USD
        assert (await town.on_chain(OPERATOR)).earned == 5_700_000_000
        await town.check()


async def test_every_matured_receipt_is_under_the_root_also_without_a_row_of_its_account(
    small_town: Town,
) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    bob = await town.consumer(BOB, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD, parts=2)
    await town.work(bob, OPERATOR, 7)
    epoch = await town.end_epoch()
    proofs = EpochProofs(town.database)
    assert await proofs.inclusion(epoch, b"\x07" * 32) is None
    await town.settle()
    closed = await town.epoch(epoch)
    assert closed is not None
    file = decode_epoch(await read_file(town.files, closed.file_hash))
    assert len(file.receipt_ids) == 3
    assert receipt_tree(file.receipt_ids).root == closed.receipts_root
    for place, receipt_id in enumerate(file.receipt_ids):
        inclusion = await proofs.inclusion(epoch, receipt_id)
        assert inclusion is not None
        assert inclusion.proof.index == place
        assert verify(inclusion.root, receipt_id, inclusion.proof)
    with pytest.raises(Broken, match="not under the root"):
        await proofs.inclusion(epoch, b"\x07" * 32)


async def test_the_next_epoch_takes_only_receipts_that_no_epoch_has(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    first = await town.end_epoch()
    await town.settle()
    await town.work(alice, OPERATOR, 2 * USD)
    await town.end_epoch()
    second = await town.end_epoch()
    await town.settle()
    counts = [(await town.epoch(number)).receipt_count for number in (first, second)]  # type: ignore[union-attr]
    assert counts == [1, 1]
    assert (await town.driver.chain.ledger()).next_epoch == second + 1
    await town.check()


async def test_books_that_say_other_than_the_chain_are_found(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.database.write(
        lambda session: ledger.credit_deposit(session, address(ALICE), NanoUsd(7), "nowhere", 0)
    )
    findings = await audit_chain(town.database, town.driver.chain)
    assert [(one.subject, one.expected, one.found) for one in findings] == [(alice, 10 * USD + 7, 10 * USD)]
