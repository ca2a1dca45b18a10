"""Books that do not know what their chain has taken are not started on."""

from pathlib import Path

import pytest

from marketplace.services.keeping import copy_database
from marketplace.services.settlement.behind import BooksBehind, check_not_behind
from marketplace.storage.database import Database
from tests.support.anvil import USD
from tests.support.settling import Town, town

ALICE, BOB, OPERATOR = 3, 4, 6


async def busy(made: Town) -> None:
    """Let two consumers owe so much that each has a row."""
    for who in (ALICE, BOB):
        account_id = await made.consumer(who, 10 * USD, authorized=10 * USD)
        await made.work(account_id, OPERATOR, 2 * USD)


async def check_backup(made: Town, backup: Path) -> None:
    """Check the books of a backup against the chain as it is now."""
    database = await Database.open(f"sqlite+pysqlite:///{backup}")
    try:
        await check_not_behind(database, made.driver.chain)
    finally:
        await database.close()


async def test_books_that_do_not_know_the_chunks_of_an_open_epoch_are_not_started_on(tmp_path: Path) -> None:
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        await busy(made)
        backup, later = tmp_path / "backup.sqlite", tmp_path / "later.sqlite"
        copy_database(tmp_path / "books.sqlite", backup)
        epoch = await made.end_epoch()
        while (await made.driver.chain.ledger()).chunks < 2:
            await check_not_behind(made.database, made.driver.chain)
            assert await made.settlement.step()
            if not later.exists() and (await made.driver.chain.ledger()).chunks == 1:
                copy_database(tmp_path / "books.sqlite", later)
            await made.driver.mine()
        with pytest.raises(BooksBehind, match=rf"epoch {epoch} \(not closed\).*first 2 chunks.*sent 0 "):
            await check_backup(made, backup)
        with pytest.raises(BooksBehind, match=rf"epoch {epoch} \(not closed\).*first 2 chunks.*sent 1 "):
            await check_backup(made, later)
        await made.settle()
        await check_not_behind(made.database, made.driver.chain)


async def test_books_that_did_not_send_an_epoch_which_they_put_together_are_not_started_on(
    tmp_path: Path,
) -> None:
    async with town("memory", tmp_path, rows_per_chunk=100) as made:
        await busy(made)
        epoch = await made.end_epoch()
        assert await made.settlement.step()
        backup = tmp_path / "backup.sqlite"
        copy_database(tmp_path / "books.sqlite", backup)
        await check_backup(made, backup)
        await made.settle()
        # It may have been planned anew before it was sent: with other rows than these books have.
        with pytest.raises(BooksBehind, match=rf"epoch {epoch} \(closed\).*first 1 chunks.*sent 0 "):
            await check_backup(made, backup)
        await check_not_behind(made.database, made.driver.chain)
