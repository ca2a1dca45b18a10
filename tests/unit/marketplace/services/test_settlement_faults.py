"""What goes wrong between an epoch's rows and its closing, on the twin and on a real chain."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.domain.ports.chain import ChainAccount
from marketplace.services import ledger
from marketplace.services.alarms import ALARMS
from marketplace.services.audit_epochs import audit_epochs
from marketplace.services.settlement.files import read_file
from marketplace.services.settlement.workshop import Planted
from marketplace.storage.queries.settlement import Cut
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.ids import Address
from tests.support.anvil import LONG_TERMS, OWNER, USD
from tests.support.chains import address, consent
from tests.support.settling import MakeTown, Town
from tests.support.settling import town as town_in_memory

ALICE, BOB, CAROL, OPERATOR, RIVAL = 3, 4, 5, 6, 7
LEAVERS, STAYER = (ALICE, BOB, CAROL), 8


def alarms(kind: str) -> float:
    return ALARMS.labels(kind)._value.get()


async def test_a_row_that_would_revert_is_set_aside_with_its_reason_and_the_rest_settles(
    small_town: Town,
) -> None:
    town, before = small_town, alarms("row_set_aside")
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    bob = await town.consumer(BOB, 10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    await town.work(bob, OPERATOR, 2 * USD)
    forged = consent(town.driver.domain, ALICE, 2 * USD)
    await town.database.write(
        lambda session: ledger.store_consent(session, bob, forged.spent, forged.signature)
    )
    epoch = await town.end_epoch()
    await town.settle()
    assert (await town.on_chain(ALICE)).spent == 2 * USD
    assert (await town.on_chain(BOB)).spent == 0
    assert (await town.on_chain(OPERATOR)).earned == 3_800_000_000
    aside = [row for row in await town.rows(epoch) if row.set_aside is not None]
    assert [(row.address, row.kind, row.amount) for row in aside] == [(address(BOB), "charge", 2 * USD)]
    assert "forged" in str(aside[0].set_aside)
    assert alarms("row_set_aside") == before + 1
    closed = await town.epoch(epoch)
    assert closed is not None
    file = decode_epoch(await read_file(town.files, closed.file_hash))
    assert file.rows.set_aside[0].row.account == address(BOB)
    await town.sign(BOB, 3 * USD)
    await town.end_epoch()
    await town.settle()
    assert (await town.on_chain(BOB)).spent == 2 * USD
    await town.check()


async def test_money_that_left_after_the_epoch_was_sealed_sets_that_row_aside_and_the_epoch_closes(
    small_town: Town,
) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    bob = await town.consumer(BOB, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    await town.work(bob, OPERATOR, 2 * USD)
    await town.driver.request_withdrawal(BOB, 10 * USD)
    await town.driver.wait(LONG_TERMS.thaw)
    town.clock.advance(LONG_TERMS.thaw * 1000)
    epoch = await town.end_epoch()
    assert await town.settlement.step()
    assert await town.settlement.step()
    first = await town.epoch(epoch)
    assert first is not None
    assert first.state == "published"
    await town.driver.withdraw(BOB)
    await town.settle()
    closed = await town.epoch(epoch)
    assert closed is not None
    assert closed.state == "closed"
    assert closed.file_hash != first.file_hash
    assert (await town.on_chain(ALICE)).spent == 2 * USD
    assert (await town.on_chain(BOB)).spent == 0
    assert (await town.on_chain(OPERATOR)).earned == 3_800_000_000
    assert (await town.driver.chain.ledger()).pool == 0


def published_files(town: Town) -> int:
    """Return how many epoch files there are."""
    return sum(len(path.name) == 64 for path in town.files.folder.iterdir())


async def leaving(town: Town) -> int:
    """Let three consumers owe and be able to withdraw, Carol all but a dollar, and one stay; end it."""
    for who in (*LEAVERS, STAYER):
        account_id = await town.consumer(who, 10 * USD, authorized=10 * USD)
        await town.work(account_id, OPERATOR, 2 * USD)
    for who in LEAVERS:
        await town.driver.request_withdrawal(who, 9 * USD if who == CAROL else 10 * USD)
    await town.driver.wait(LONG_TERMS.thaw)
    town.clock.advance(LONG_TERMS.thaw * 1000)
    return await town.end_epoch()


async def test_many_who_withdraw_while_an_epoch_is_put_together_cost_one_row_that_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town_in_memory("memory", tmp_path) as town:
        epoch, chain, left = await leaving(town), town.driver.chain, list(LEAVERS)
        read, before = chain.accounts, alarms("row_set_aside")

        async def read_and_withdraw(addresses: Sequence[Address]) -> Mapping[Address, ChainAccount]:
            found = await read(addresses)
            while left:
                await town.driver.withdraw(left.pop())
            return found

        monkeypatch.setattr(chain, "accounts", read_and_withdraw)
        await town.settle()
        assert alarms("row_set_aside") == before + 1
        assert (await town.on_chain(STAYER)).spent == 2 * USD
        assert [row.address for row in await town.rows(epoch) if row.set_aside] == [address(BOB)]


async def test_many_who_withdraw_after_the_epoch_was_published_cost_one_more_file(tmp_path: Path) -> None:
    async with town_in_memory("memory", tmp_path) as town:
        epoch = await leaving(town)
        asides, shorts = alarms("row_set_aside"), alarms("consumer_short")
        while (made := await town.epoch(epoch)) is None or made.state != "published":
            assert await town.settlement.step()
        for who in LEAVERS:
            await town.driver.withdraw(who)
        await town.settle()
        assert published_files(town) == 2
        assert (alarms("row_set_aside"), alarms("consumer_short")) == (asides + 1, shorts + 2)
        assert [row.address for row in await town.rows(epoch) if row.set_aside] == [address(BOB)]
        charged = {who: (await town.on_chain(who)).spent for who in (*LEAVERS, STAYER)}
        assert charged == {ALICE: 0, BOB: 0, CAROL: USD, STAYER: 2 * USD}
        assert (await town.driver.chain.ledger()).pool == 0


async def test_a_cheque_cashed_after_the_epoch_was_sealed_balances_it_anew(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    await town.end_epoch()
    await town.settle()
    first = (await town.on_chain(OWNER)).earned
    await town.work(alice, OPERATOR, 2 * USD)
    epoch = await town.end_epoch()
    assert await town.settlement.step()
    await town.driver.cash(OPERATOR, 0, 2_500_000_000)
    await town.settle()
    assert (await town.on_chain(OPERATOR)).earned == 3_800_000_000
    assert (await town.on_chain(OWNER)).earned == first + 700_000_000
    closed = await town.epoch(epoch)
    assert closed is not None
    assert closed.state == "closed"
    await town.check()


async def test_a_cheque_that_overtakes_a_row_leaves_books_that_add_up(make_town: MakeTown) -> None:
    """What the row did not have to move any more goes to the treasury, whose bond paid the cheque."""
    async with make_town(rows_per_chunk=1) as town:
        alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
        await town.work(alice, OPERATOR, 2 * USD)
        await town.work(alice, RIVAL, 2 * USD)
        await town.driver.wait(LONG_TERMS.epoch_length + LONG_TERMS.settlement_lag)
        epoch = await town.end_epoch()
        while not (sealed := await town.epoch(epoch)) or sealed.state != "published":
            assert await town.settlement.step()
        overtaken = min((OPERATOR, RIVAL), key=address)
        await town.driver.cash(overtaken, 0, 1_500_000_000)
        await town.settle()
        rows = await town.rows(epoch)
        assert sum((-1) ** (row.kind == "charge") * (row.amount - row.before) for row in rows) == 0
        assert (await town.on_chain(OWNER)).earned == 200_000_000 + 1_500_000_000
        await town.check()
        assert list(await audit_epochs(town.database, town.files, town.driver.domain)) == []


async def test_a_cheque_that_is_booked_while_rows_are_planned_is_entered_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the chain and the write lies the tree, which takes its time."""
    async with town_in_memory("memory", tmp_path, rows_per_chunk=1) as town:
        alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
        await town.work(alice, OPERATOR, 2 * USD)
        await town.end_epoch()
        workshop = town.settlement._workshop
        plant = workshop.plant

        async def slowly(cut: Cut) -> Planted:
            await town.driver.cash(OPERATOR, 0, 1_500_000_000)
            await town.confirm()
            return await plant(cut)

        monkeypatch.setattr(workshop, "plant", slowly)
        assert await town.settlement.step()
        await town.settle()
        await town.check()
        assert list(await audit_epochs(town.database, town.files, town.driver.domain)) == []


async def test_a_fault_in_a_later_chunk_changes_only_what_was_not_sent(make_town: MakeTown) -> None:
    async with make_town(rows_per_chunk=1) as town:
        alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
        bob = await town.consumer(BOB, 10 * USD, authorized=10 * USD)
        await town.work(alice, OPERATOR, 2 * USD)
        await town.work(bob, OPERATOR, 2 * USD)
        leaver = max((ALICE, BOB), key=address)
        stayer = min((ALICE, BOB), key=address)
        await town.driver.request_withdrawal(leaver, 10 * USD)
        await town.driver.wait(LONG_TERMS.thaw)
        town.clock.advance(LONG_TERMS.thaw * 1000)
        epoch = await town.end_epoch()
        while (await town.driver.chain.ledger()).chunks < 1:
            assert await town.settlement.step()
            # A real node mines a moment after it took a transaction: not between the two looks.
            await town.driver.mine()
        await town.driver.withdraw(leaver)
        await town.settle()
        closed = await town.epoch(epoch)
        assert closed is not None
        assert closed.state == "closed"
        assert (await town.on_chain(stayer)).spent == 2 * USD
        assert (await town.on_chain(leaver)).spent == 0
        assert (await town.on_chain(OPERATOR)).earned == 3_800_000_000
        assert (await town.on_chain(OWNER)).spent == 1_800_000_000


async def test_a_closing_lost_in_a_reorganisation_is_sent_again(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.driver.mine(5)
    await town.work(alice, OPERATOR, 2 * USD)
    epoch = await town.end_epoch()
    while (await town.driver.chain.ledger()).next_epoch <= epoch:
        assert await town.settlement.step()
    await town.driver.reorganise(1)
    assert (await town.driver.chain.ledger()).next_epoch == 0
    await town.settle()
    assert (await town.driver.chain.ledger()).next_epoch == epoch + 1
    assert (await town.on_chain(ALICE)).spent == 2 * USD
    await town.check()


async def test_a_transaction_that_is_stuck_bids_more_and_is_sent_once(small_town: Town) -> None:
    town = small_town
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    await town.end_epoch()
    nonce = await town.driver.sender.used_nonces()
    await town.driver.hold_back(True)
    for _ in range(4):
        await town.settlement.step()
    town.clock.advance(61_000)
    await town.settlement.step()
    await town.settlement.step()
    await town.driver.hold_back(False)
    await town.driver.mine()
    await town.settle()
    assert await town.driver.sender.used_nonces() == nonce + 1
    assert (await town.on_chain(ALICE)).spent == 2 * USD
    await town.check()


async def test_a_coordinator_without_the_audit_secret_says_so_and_sends_nothing(small_town: Town) -> None:
    town, before = small_town, alarms("audit_secret_unknown")
    wrong = replace(town.terms.epochs, genesis=town.terms.epochs.genesis - 1)
    town.terms = replace(town.terms, epochs=wrong)
    town.restart()
    alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await town.work(alice, OPERATOR, 2 * USD)
    await town.end_epoch()
    await town.settle()
    assert alarms("audit_secret_unknown") == before + 1
    assert (await town.driver.chain.ledger()).next_epoch == 0


async def test_a_chunk_that_fails_where_it_is_mined_is_made_anew_without_the_row_at_fault(
    tmp_path: Path,
) -> None:
    async with town_in_memory("memory", tmp_path) as town:
        alice = await town.consumer(ALICE, 10 * USD, authorized=10 * USD)
        bob = await town.consumer(BOB, 10 * USD, authorized=10 * USD)
        await town.work(alice, OPERATOR, 2 * USD)
        await town.work(bob, OPERATOR, 2 * USD)
        await town.driver.request_withdrawal(BOB, 10 * USD)
        await town.driver.wait(LONG_TERMS.thaw)
        town.clock.advance(LONG_TERMS.thaw * 1000)
        epoch = await town.end_epoch()
        await town.driver.hold_back(True)
        for _ in range(4):
            await town.settlement.step()
        await town.driver.withdraw(BOB)
        await town.driver.hold_back(False)
        await town.settle()
        closed = await town.epoch(epoch)
        assert closed is not None
        assert closed.state == "closed"
        assert await town.driver.sender.used_nonces() == 2
        assert (await town.on_chain(ALICE)).spent == 2 * USD
        assert (await town.on_chain(BOB)).spent == 0
        assert [row.address for row in await town.rows(epoch) if row.set_aside] == [address(BOB)]
