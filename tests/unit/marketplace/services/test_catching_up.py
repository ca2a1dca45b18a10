"""Epochs that books have forgotten come back out of their files to the nano-dollar, on a real chain."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from os import truncate
from pathlib import Path
from shutil import copytree

import pytest

from marketplace.chain.witness import EvmWitness
from marketplace.commands.epoch_sources import EpochSources
from marketplace.domain.ports.stake import NodeStake
from marketplace.services.audit_books import audit_books
from marketplace.services.audit_chain import audit_chain
from marketplace.services.audit_epochs import audit_closings, audit_epochs
from marketplace.services.audit_events import audit_events
from marketplace.services.catching_up import CatchUp, CaughtUp, Market
from marketplace.services.catching_up.service import EpochFileMissing, OtherMarket
from marketplace.services.keeping import copy_database
from marketplace.services.ledger.credit import TreasuryShort
from marketplace.services.ledger.recovery import FORGOTTEN_ID
from marketplace.services.maturity import mature_due
from marketplace.storage.database import Database
from marketplace.storage.queries.settlement import change_epoch
from tallystick.anvil import anvil_key
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import COORDINATOR, OWNER, USD
from tests.support.chains import EvmDriver, address
from tests.support.settling import CONFIRMATIONS, Town, town

pytestmark = pytest.mark.anvil

ALICE, BOB, OPERATOR = 3, 4, 6


class OneOperator:
    """The nodes of these receipts were never registered: all are one operator's."""

    async def node_stake(self, node: Address) -> NodeStake:
        """See `StakeBook`."""
        return NodeStake(address(OPERATOR), active=True, stake=NanoUsd(0), eligible=True)


@dataclass
class Lost:
    """A town whose books are those of a backup again, and what the lost ones said."""

    town: Town
    spent: dict[str, int]
    earned: int

    async def catch_up(self, *sources: str) -> CaughtUp:
        """Learn what was settled, as the command does."""
        town, driver = self.town, self.town.driver
        assert isinstance(driver, EvmDriver)
        place = driver.market.deployment
        return await CatchUp(
            town.database,
            driver.chain,
            EvmWitness(driver.market.connection, place),
            OneOperator(),
            town.watcher,
            town.files,
            Market(driver.domain, place.genesis, place.deployed_block, CONFIRMATIONS),
            anvil_key(COORDINATOR),
            EpochSources(town.files, sources).bring,
        ).run()

    async def check(self) -> None:
        """Books, files and chain agree; but for the signatures, which these receipts do not have."""
        town, driver = self.town, self.town.driver
        assert isinstance(driver, EvmDriver)
        place = driver.market.deployment
        witness = EvmWitness(driver.market.connection, place)
        assert (await town.database.read(audit_books)).findings == ()
        assert list(await audit_epochs(town.database, town.files, driver.domain)) == []
        closings = await audit_closings(town.database, driver.chain, witness, place.deployed_block)
        assert list(closings) == []
        assert list(await audit_chain(town.database, driver.chain)) == []
        assert list(await audit_events(town.database, driver.chain, place.deployed_block)) == []


async def restored(made: Town, backup: Path) -> Town:
    """Put the backup in the place of the books."""
    database = await Database.open(f"sqlite+pysqlite:///{backup}")
    await made.database.close()
    made.database = database
    made.restart()
    return made


@pytest.fixture
async def lost(tmp_path: Path) -> AsyncIterator[Lost]:
    """Two epochs are settled after the backup, with consents, parts, credit, a cashed cheque and a leaver."""
    async with town("anvil", tmp_path, rows_per_chunk=2) as made:
        alice = await made.consumer(ALICE, 10 * USD, authorized=10 * USD)
        bob = await made.consumer(BOB, 10 * USD)
        carol = await made.on_credit("carol", 20 * USD)
        for account_id in (alice, bob, carol):
            await made.work(account_id, OPERATOR, 2 * USD)
        await made.work(alice, OPERATOR, 1 * USD, matures=False)
        backup = tmp_path / "backup.sqlite"
        copy_database(tmp_path / "books.sqlite", backup)

        await made.sign(BOB, 2 * USD)
        await mature_due(made.database, made.clock)
        await made.end_epoch()
        await made.settle()
        await made.driver.deposit(ALICE, 5 * USD)
        await made.driver.deposit(5, 3 * USD, 3 * USD)
        await made.confirm()
        for account_id in (alice, bob, address(5), carol):
            await made.work(account_id, OPERATOR, 3 * USD, parts=3)
        await made.work(alice, OPERATOR, 1 * USD)
        await made.driver.cash(OPERATOR, 0, (await made.account(address(OPERATOR))).earned)
        await made.confirm()
        await made.work(alice, OPERATOR, 1 * USD)
        await made.sign(BOB, 5 * USD)
        await made.end_epoch()
        await made.settle()
        await made.driver.request_withdrawal(ALICE, 1 * USD)
        await made.confirm()
        spent = {one: (await made.account(one)).spent for one in (alice, bob, address(5), carol)}
        earned = (await made.account(address(OPERATOR))).earned
        yield Lost(await restored(made, backup), spent, earned)


async def test_credit_that_is_there_again_has_to_be_covered(tmp_path: Path) -> None:
    async with town("anvil", tmp_path, treasury=12 * USD) as made:
        carol = await made.on_credit("carol", 10 * USD)
        backup = tmp_path / "backup.sqlite"
        copy_database(tmp_path / "books.sqlite", backup)
        await made.work(carol, OPERATOR, 5 * USD)
        epoch = await made.end_epoch()
        await made.settle()
        again = Lost(await restored(made, backup), {}, 0)
        with pytest.raises(TreasuryShort, match=r"5\.00.*2\.00"):
            await again.catch_up()
        assert await made.epoch(epoch) is None
        assert (await made.account(carol)).balance == 10 * USD
        await made.driver.deposit(OWNER, 3 * USD)
        await made.confirm()
        assert [one.forgotten for one in (await again.catch_up()).epochs] == [5 * USD]
        await again.check()


async def test_books_of_another_market_learn_nothing(lost: Lost) -> None:
    first = (await lost.catch_up()).epochs[0].number
    await lost.town.database.write(lambda session: change_epoch(session, first, file_hash=bytes(32)))
    with pytest.raises(OtherMarket, match=f"epoch {first}"):
        await lost.catch_up()


async def test_what_was_settled_is_in_the_books_again(lost: Lost, tmp_path: Path) -> None:
    mirror = copytree(lost.town.files.folder, tmp_path / "mirror")
    for path in lost.town.files.folder.iterdir():
        truncate(path, 50)
    with pytest.raises(EpochFileMissing, match="is damaged"):
        await lost.catch_up()
    done = await lost.catch_up(str(mirror))
    assert len(done.epochs) == 2
    assert done.beyond == {}
    made = lost.town
    for account_id, spent in lost.spent.items():
        if account_id != "carol":
            assert (await made.account(account_id)).spent == spent
    # Her job before the backup is known, the one after it is nobody's any more.
    assert (await made.account("carol")).spent == 2 * USD
    assert (await made.account(FORGOTTEN_ID)).spent == lost.spent["carol"] - 2 * USD
    assert (await made.account(address(OPERATOR))).earned == lost.earned
    await lost.check()
    assert (await lost.catch_up()).epochs == ()

    await made.work(address(ALICE), OPERATOR, 2 * USD)
    await made.end_epoch()
    await made.settle()
    assert (await made.on_chain(ALICE)).spent == lost.spent[address(ALICE)] + 2 * USD
    assert (await made.on_chain(OPERATOR)).earned == lost.earned + 2 * USD * 95 // 100
    await lost.check()
