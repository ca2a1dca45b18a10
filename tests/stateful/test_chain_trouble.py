"""A chain that reorganises, loses its state, is down, or becomes dear, and two that settle at once.

Whatever it does, nobody is charged twice, and books and chain agree afterwards.
"""

import asyncio
import contextlib
from pathlib import Path

import pytest

from marketplace.domain.errors import ChainUnavailable, Unavailable
from marketplace.services.audit_epochs import audit_epochs
from marketplace.services.settlement import Settlement
from marketplace.services.settlement.workshop import Planted, Workshop
from marketplace.storage.queries.settlement import Cut
from tallystick.evm.connection import connected
from tests.support.anvil import LONG_TERMS, USD, anvil_process
from tests.support.chains import EvmDriver, address
from tests.support.settling import Town, town

ALICE, BOB, OPERATOR, RIVAL = 3, 4, 6, 7


async def some_work(made: Town, who: int = ALICE) -> None:
    account_id = await made.consumer(who, 10 * USD, authorized=10 * USD)
    await made.work(account_id, OPERATOR, 2 * USD + 1)
    await made.work(account_id, RIVAL, 2 * USD)


@pytest.mark.parametrize("depth", range(1, 21))
async def test_a_settlement_that_loses_its_last_blocks_is_whole_again(tmp_path: Path, depth: int) -> None:
    """Also the blocks in which people deposited, and those that had counted as final."""
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        await some_work(made)
        await made.driver.mine(20)
        await made.driver.deposit(BOB, 5 * USD, authorized=5 * USD)
        await made.confirm()
        await made.end_epoch()
        for _ in range(depth // 2):
            await made.settlement.step()
        await made.watcher.poll()
        await made.driver.reorganise(depth)
        made.clock.advance(61_000)
        await made.watcher.poll()
        await made.settle()
        await made.end_epoch()
        await made.settle()
        await made.confirm()
        await made.settle()
        assert (await made.on_chain(ALICE)).spent == 4 * USD + 1
        assert (await made.on_chain(OPERATOR)).earned + (await made.on_chain(RIVAL)).earned == earned()
        await made.check()


def earned() -> int:
    """Return what both operators get of the work."""
    return sum(charge - -(-charge * 500 // 10_000) for charge in (2 * USD + 1, 2 * USD))


@pytest.mark.anvil
@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 7, 20])
async def test_a_real_chain_that_loses_its_last_blocks(tmp_path: Path, depth: int) -> None:
    async with town("anvil", tmp_path, rows_per_chunk=2) as made:
        await some_work(made)
        await made.driver.mine(20)
        await made.end_epoch()
        for _ in range(4):
            await made.settlement.step()
        await made.driver.reorganise(depth)
        # The chain's time went back with its blocks, maybe into the epoch.
        await made.driver.wait(LONG_TERMS.epoch_length)
        await made.settle()
        await made.confirm()
        await made.settle()
        assert (await made.on_chain(ALICE)).spent == 4 * USD + 1
        await made.check()


@pytest.mark.parametrize("seed", range(8))
async def test_two_that_settle_at_once_charge_once(tmp_path: Path, seed: int) -> None:
    """The lease keeps them apart; if it ever does not, the books and the Ledger do."""
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        await some_work(made)
        await some_work(made, BOB)
        await made.end_epoch()
        first, home = made.settlement, made.folder
        made.folder = home / "another machine"
        made.restart()

        async def settle(settlement: Settlement, pause: int) -> None:
            for step in range(40):
                # As the scheduler does: whoever comes second is refused by the books, and tries again.
                with contextlib.suppress(Unavailable):
                    await settlement.step()
                if step % (pause + 1) == 0:
                    await made.driver.mine()
                await asyncio.sleep(0)

        await asyncio.gather(settle(first, seed), settle(made.settlement, seed // 2))
        made.restart()
        await made.settle()
        for who in (ALICE, BOB):
            assert (await made.on_chain(who)).spent == 4 * USD + 1
        assert (await made.on_chain(OPERATOR)).earned + (await made.on_chain(RIVAL)).earned == 2 * earned()
        await made.check()


async def test_receipts_that_mature_while_two_seal_are_each_in_one_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town("memory", tmp_path) as made:
        await some_work(made)
        epoch = await made.end_epoch()
        first = made.settlement
        made.restart()
        plant, second = Workshop.plant, made.settlement

        async def overtaken(workshop: Workshop, cut: Cut) -> Planted:
            """Let more work mature, and the other seal the same epoch, while the first one's tree is made."""
            monkeypatch.setattr(Workshop, "plant", plant)
            await some_work(made)
            tree = await plant(workshop, cut)
            await some_work(made)
            assert await second.step()
            return tree

        monkeypatch.setattr(Workshop, "plant", overtaken)
        with pytest.raises(Unavailable, match="another process"):
            await first.step()
        await made.settle()
        await some_work(made)
        await made.end_epoch()
        await made.settle()
        found = [await made.epoch(number) for number in (epoch, epoch + 1)]
        files = [made.files.load(row.file_hash) for row in found if row is not None]
        assert [len(file.receipt_ids) for file in files] == [6, 2]
        assert not set(files[0].receipt_ids) & set(files[1].receipt_ids)
        assert await audit_epochs(made.database, made.files, made.driver.domain) == []
        await made.check()


@pytest.mark.anvil
@pytest.mark.slow
async def test_a_chain_that_lost_its_state_takes_nothing_out_of_the_books(tmp_path: Path) -> None:
    """Another chain answers there: the contracts are not on it, so nothing is read, and nothing undone."""
    async with town("anvil", tmp_path) as made:
        await some_work(made)
        before = await made.account(address(ALICE))
        assert isinstance(made.driver, EvmDriver)
        with anvil_process() as url:
            async with connected(url) as empty:
                await empty.rpc("anvil_mine", hex(200))
                made.driver.market.connection.web3.provider, kept = (
                    empty.web3.provider,
                    made.driver.market.connection.web3.provider,
                )
                with pytest.raises(ChainUnavailable, match="no Ledger at"):
                    await made.watcher.poll()
                with pytest.raises(ChainUnavailable):
                    await made.settlement.step()
                made.driver.market.connection.web3.provider = kept
        assert await made.account(address(ALICE)) == before
        await made.end_epoch()
        await made.settle()
        await made.check()


@pytest.mark.anvil
@pytest.mark.slow
async def test_gas_that_becomes_dear_while_a_transaction_waits_is_paid_and_it_is_sent_once(
    tmp_path: Path,
) -> None:
    async with town("anvil", tmp_path) as made:
        await some_work(made)
        await made.end_epoch()
        assert isinstance(made.driver, EvmDriver)
        connection = made.driver.market.connection
        nonce = await made.driver.sender.used_nonces()
        await made.driver.hold_back(True)
        for _ in range(3):
            await made.settlement.step()
        await connection.rpc("anvil_setNextBlockBaseFeePerGas", hex(10**12))
        await made.driver.mine()
        assert await made.driver.sender.used_nonces() == nonce
        made.clock.advance(61_000)
        await made.settlement.step()
        await made.driver.hold_back(False)
        await made.settle()
        assert await made.driver.sender.used_nonces() == nonce + 1
        assert (await made.on_chain(ALICE)).spent == 4 * USD + 1
        await made.check()


@pytest.mark.anvil
@pytest.mark.slow
async def test_a_chain_that_is_down_or_answers_late_is_waited_for(tmp_path: Path) -> None:
    with anvil_process() as url:
        async with connected(url) as connection:
            assert await connection.nonce(address(ALICE)) == 0
    async with town("anvil", tmp_path) as made:
        await some_work(made)
        await made.end_epoch()
        assert isinstance(made.driver, EvmDriver)
        provider = made.driver.market.connection.web3.provider
        there, provider.endpoint_uri = provider.endpoint_uri, url
        for doing in (made.watcher.poll, made.settlement.step):
            with pytest.raises(ChainUnavailable, match="does not answer"):
                await doing()
        provider.endpoint_uri = there
        await made.settle()
        assert (await made.on_chain(ALICE)).spent == 4 * USD + 1
        await made.check()
