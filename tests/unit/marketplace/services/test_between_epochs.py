"""While an epoch is on its way, the chain forgets the one before, people work and are given credit."""

from pathlib import Path

import pytest

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Unavailable
from marketplace.domain.ports.chain import Batch, Fault
from marketplace.services.ledger.credit import TreasuryShort
from tests.support.anvil import USD
from tests.support.settling import town

ALICE, BOB, OPERATOR = 3, 4, 6


async def test_a_closed_epoch_that_is_lost_while_the_next_is_on_its_way_is_sent_again(tmp_path: Path) -> None:
    """The next one builds on it: until it is back, nothing else is sent."""
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        alice = await made.consumer(ALICE, 10 * USD, authorized=10 * USD)
        bob = await made.consumer(BOB, 10 * USD, authorized=10 * USD)
        before = (await made.driver.chain.head()).number
        await made.work(alice, OPERATOR, 4 * USD + 1)
        first = await made.end_epoch()
        await made.settle()
        await made.work(bob, OPERATOR, 4 * USD + 1)
        second = await made.end_epoch()
        assert await made.settlement.step()
        await made.driver.reorganise((await made.driver.chain.head()).number - before)
        assert (await made.driver.chain.ledger()).next_epoch == first
        for _ in range(3):
            await made.settle()
            await made.confirm()
        assert (await made.driver.chain.ledger()).next_epoch == second + 1
        for who in (ALICE, BOB):
            assert (await made.on_chain(who)).spent == 4 * USD + 1
        await made.check()


async def test_work_that_matures_before_an_epoch_is_closed_takes_no_cover_of_its_advance(
    tmp_path: Path,
) -> None:
    """The credit that an advance sets free is of its own epoch: what is owed since then waits."""
    async with town("memory", tmp_path, treasury=5 * USD) as made:
        dave = await made.on_credit("dave", 5 * USD)
        await made.work(dave, OPERATOR, 4 * USD)
        alice = await made.consumer(ALICE, 10 * USD)
        epoch = await made.end_epoch()
        assert await made.settlement.step()
        await made.work(alice, OPERATOR, 3 * USD)
        await made.settle()
        closed = await made.epoch(epoch)
        assert closed is not None
        assert closed.state == "closed"
        treasury = await made.account(TREASURY_ID)
        assert (treasury.balance, treasury.granted) == (1_200_000_000, USD)
        await made.check()


async def test_what_is_advanced_by_an_epoch_on_its_way_is_not_granted(tmp_path: Path) -> None:
    async with town("memory", tmp_path, treasury=5 * USD) as made:
        alice = await made.consumer(ALICE, 10 * USD)
        await made.work(alice, OPERATOR, 4 * USD)
        await made.end_epoch()
        assert await made.settlement.step()
        advance = 3_800_000_000
        with pytest.raises(TreasuryShort):
            await made.on_credit("dave", 5 * USD - advance + 1)
        await made.on_credit("dave", 5 * USD - advance)
        await made.settle()
        treasury = await made.account(TREASURY_ID)
        assert treasury.balance == treasury.granted == 5 * USD - advance
        await made.check()


async def test_an_epoch_is_not_stored_if_its_advance_was_granted_while_it_was_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town("memory", tmp_path, treasury=5 * USD) as made:
        alice = await made.consumer(ALICE, 10 * USD)
        await made.work(alice, OPERATOR, 4 * USD)
        epoch = await made.end_epoch()
        simulate = made.driver.chain.simulate

        async def slowly(batch: Batch) -> Fault | None:
            monkeypatch.undo()
            await made.on_credit("dave", 5 * USD)
            return await simulate(batch)

        monkeypatch.setattr(made.driver.chain, "simulate", slowly)
        with pytest.raises(Unavailable):
            await made.settlement.step()
        assert await made.epoch(epoch) is None
        await made.settle()
        treasury = await made.account(TREASURY_ID)
        assert treasury.balance == treasury.granted == 5 * USD
        await made.check()
