"""While an epoch is on its way, the chain forgets the one before, people work and are given credit."""

from pathlib import Path

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
