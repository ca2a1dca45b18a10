"""A back office killed between any two durable effects settles the same epoch, once, to the nano-dollar."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.services.settlement.files import read_file
from tallystick.protocol.epochfile import decode_epoch
from tests.support.anvil import OWNER, USD
from tests.support.chains import EvmDriver, address
from tests.support.settling import Town, town

pytestmark = [pytest.mark.anvil, pytest.mark.slow]

ALICE, BOB, CAROL, OPERATOR, RIVAL = 3, 4, 5, 6, 7
CHARGES = {ALICE: 2 * USD + 1, BOB: 3 * USD + 3, CAROL: 5 * USD + 7}

KILLS = [
    "deposits.before_confirmed",
    "deposits.after_confirmed",
    "deposits.before_fresh",
    "maturity.some_matured",
    "acknowledgements.stored",
    "acknowledgements.stored:2",
    "settlement.cut",
    "settlement.sealed",
    "settlement.file_written",
    "settlement.published",
    "transactions.stored",
    "transactions.broadcast",
    "transactions.stored:2",
    "transactions.broadcast:2",
    "transactions.stored:3",
    "transactions.broadcast:3",
    "settlement.before_close",
    "settlement.closed",
    *(f"books.group_ran:{turn}" for turn in (1, 4, 7, 10, 13)),
    *(f"books.group_committed:{turn}" for turn in (2, 5, 8, 11, 14)),
]


@pytest.fixture
async def settled_later(tmp_path: Path) -> AsyncIterator[Town]:
    """A town whose epoch is over and whose work has not matured; its last deposit is not read yet."""
    async with town("anvil", tmp_path) as made:
        for who, charge in CHARGES.items():
            account_id = await made.consumer(who, 10 * USD, authorized=10 * USD)
            await made.work(account_id, OPERATOR, charge, matures=False)
            await made.work(account_id, RIVAL, USD, matures=False)
        await made.driver.deposit(ALICE, USD)
        await made.end_epoch()
        await made.driver.mine(3)
        assert isinstance(made.driver, EvmDriver)
        made.driver.market.deployment.save(tmp_path / "deployment.json")
        yield made


async def run_back_office(folder: Path, failpoint: str = "") -> int:
    """Run the process until it ends, and return its status; it dies at `failpoint`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.back_office_process",
        str(folder),
        env={**os.environ, "TALLYSTICK_FAILPOINT": failpoint},
        stdout=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


@pytest.mark.parametrize("failpoint", KILLS)
async def test_a_killed_settlement_goes_on_where_it_was(settled_later: Town, failpoint: str) -> None:
    town, nonce = settled_later, await settled_later.driver.sender.used_nonces()
    assert await run_back_office(town.folder, failpoint) == -signal.SIGKILL
    assert await run_back_office(town.folder) == 0
    await check_settled_once(town, nonce)
    assert await run_back_office(town.folder) == 0
    await check_settled_once(town, nonce)


async def test_a_settlement_killed_again_and_again_goes_on_too(settled_later: Town) -> None:
    town, nonce = settled_later, await settled_later.driver.sender.used_nonces()
    for failpoint in (
        "settlement.sealed",
        "transactions.stored",
        "transactions.broadcast",
        "settlement.closed",
    ):
        assert await run_back_office(town.folder, failpoint) == -signal.SIGKILL
    assert await run_back_office(town.folder) == 0
    await check_settled_once(town, nonce)


async def check_settled_once(town: Town, nonce: int) -> None:
    """Books, chain and file agree: every charge once, every receipt in one epoch, one transaction a chunk."""
    epoch = (await town.driver.chain.ledger()).next_epoch - 1
    closed = await town.epoch(epoch)
    assert closed is not None
    assert (closed.state, closed.receipt_count, closed.chunks) == ("closed", 6, 3)
    assert await town.driver.sender.used_nonces() == nonce + 3
    spent = {who: (await town.on_chain(who)).spent for who in CHARGES}
    assert spent == {who: charge + USD for who, charge in CHARGES.items()}
    fees = {who: -(-charge * 500 // 10_000) for who, charge in CHARGES.items()}
    earned = sum(charge - fees[who] for who, charge in CHARGES.items())
    assert (await town.on_chain(OPERATOR)).earned == earned
    assert (await town.on_chain(RIVAL)).earned == 3 * USD * 95 // 100
    assert (await town.on_chain(OWNER)).earned == sum(fees.values()) + 3 * USD * 5 // 100
    for who in CHARGES:
        account = await town.account(address(who))
        assert account.spent_settled == account.spent == spent[who]
    assert (await town.account(address(ALICE))).deposited == 11 * USD
    operator = await town.account(address(OPERATOR))
    assert (operator.earned_settled, operator.acknowledged) == (earned, earned)
    file = decode_epoch(await read_file(town.files, closed.file_hash))
    assert len(file.receipt_ids) == 6
    await town.check()
