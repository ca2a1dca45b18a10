"""Nonces of the transactions that settle: whatever bids, reorganisations and keys do, none waits for good."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from marketplace.chain.evm import EvmChain
from marketplace.chain.memory import MemoryChain
from marketplace.chain.sender import EvmSender
from marketplace.domain.ports.chain import LedgerState
from marketplace.services.settlement import Settlement
from marketplace.services.transactions import Transactions
from marketplace.storage.queries.transactions import T
from tallystick.anvil import anvil_key
from tests.support.anvil import LONG_TERMS, USD
from tests.support.chains import EvmDriver, MemoryDriver, address
from tests.support.settling import CONFIRMATIONS, Town, town

ALICE, BOB, CAROL, OPERATOR, NEW_KEY = 3, 4, 5, 6, 8
EVERYBODY = (ALICE, BOB, CAROL)


def memory_of(made: Town) -> MemoryChain:
    assert isinstance(made.driver, MemoryDriver)
    return made.driver.memory


async def nonces(made: Town) -> dict[str, tuple[int, str]]:
    """Return the nonce and state of each purpose's transaction."""
    statement = select(T.c.purpose, T.c.nonce, T.c.state)
    return await made.database.read(
        lambda session: {purpose: (nonce, state) for purpose, nonce, state in session.execute(statement)}
    )


async def send_one_more(made: Town) -> None:
    """Settle until another transaction is signed; nothing is mined meanwhile."""
    before = len(await nonces(made))
    while len(await nonces(made)) == before:
        assert await made.settlement.step()


async def step_with_a_block_in_between(made: Town) -> None:
    """Settle a step, with a block that is mined after the Ledger was asked how far it is."""
    memory = memory_of(made)
    ask = memory.ledger

    async def asked() -> LedgerState:
        memory.ledger = ask  # type: ignore[method-assign]
        state = await ask()
        memory.mine()
        return state

    memory.ledger = asked  # type: ignore[method-assign]
    await made.settlement.step()


async def work_for_everybody(made: Town) -> None:
    for who in EVERYBODY:
        await made.work(await made.consumer(who, 10 * USD, authorized=10 * USD), OPERATOR, 2 * USD)


async def test_a_bid_that_lost_is_not_given_up_while_the_one_that_won_can_be_taken_back(
    tmp_path: Path,
) -> None:
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        memory = memory_of(made)
        await work_for_everybody(made)
        epoch = await made.end_epoch()
        memory.holds_back = True
        await send_one_more(made)
        ((nonce, _),) = (await nonces(made)).values()
        first_bid = memory._waiting[nonce]
        made.clock.advance(61_000)
        await made.settlement.step()
        assert memory._waiting[nonce] != first_bid
        memory._waiting[nonce] = first_bid
        await step_with_a_block_in_between(made)
        await send_one_more(made)
        memory.reorganise(1)
        memory.holds_back = False
        await made.settle()
        assert (await memory.ledger()).next_epoch == epoch + 1
        await made.check()


async def test_a_chunk_that_was_mined_once_is_sent_again_for_those_that_wait_for_its_nonce(
    tmp_path: Path,
) -> None:
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        memory = memory_of(made)
        await work_for_everybody(made)
        for who in EVERYBODY:
            await made.driver.request_withdrawal(who, 10 * USD)
        made.clock.advance(LONG_TERMS.thaw * 1000)
        await made.driver.wait(LONG_TERMS.thaw)
        epoch = await made.end_epoch()
        memory.holds_back = True
        before = (await memory.head()).number
        await send_one_more(made)
        memory.mine()
        await send_one_more(made)
        await step_with_a_block_in_between(made)
        await send_one_more(made)
        assert [state for _, state in (await nonces(made)).values()] == ["signed", "mined", "signed"]
        memory._waiting.clear()
        memory.reorganise((await memory.head()).number - before)
        (first,) = [row for row in await made.rows(epoch) if row.chunk == 0]
        await made.settlement.step()
        await made.driver.withdraw(next(who for who in EVERYBODY if address(who) == first.address))
        memory.holds_back = False
        await made.settle(90)
        assert (await memory.ledger()).next_epoch == epoch + 1
        await made.check()


async def test_only_what_has_the_nonces_between_is_broadcast_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all that was ever sent, because one node of several is a block behind."""
    async with town("memory", tmp_path, rows_per_chunk=1) as made:
        memory = memory_of(made)
        await work_for_everybody(made)
        for _ in range(4):
            await made.work(address(ALICE), OPERATOR, USD)
            await made.end_epoch()
            await made.settle()
        await made.work(address(ALICE), OPERATOR, USD)
        await made.end_epoch()
        memory.holds_back = True
        await send_one_more(made)
        sent: list[bytes] = []
        used = await memory.used_nonces()

        async def broadcast(raw: bytes) -> None:
            sent.append(raw)

        async def lags() -> int:
            return used - 1

        monkeypatch.setattr(memory, "broadcast", broadcast)
        monkeypatch.setattr(memory, "used_nonces", lags)
        await made.settlement.step()
        assert len(sent) == 2


@pytest.mark.anvil
async def test_a_new_key_gives_up_what_the_former_one_can_not_send_any_more(tmp_path: Path) -> None:
    """The owner named another coordinator at once, as after a theft, with an epoch on its way."""
    async with town("anvil", tmp_path, rows_per_chunk=1) as made:
        driver = made.driver
        assert isinstance(driver, EvmDriver)
        await work_for_everybody(made)
        await made.end_epoch()
        await made.settle()
        await made.work(address(ALICE), OPERATOR, 2 * USD)
        epoch = await made.end_epoch()
        await driver.hold_back(True)
        await send_one_more(made)
        market = driver.market
        await market.connection.rpc("anvil_dropAllTransactions")
        await driver.hold_back(False)
        key = anvil_key(NEW_KEY)
        await market.owner.send(market.contracts.ledger.prepare("setCoordinator", key.address))
        place = replace(market.deployment, coordinator=key.address)
        chain, sender = EvmChain(market.connection, place), EvmSender(market.connection, place, key)
        assert await sender.used_nonces() < await driver.sender.used_nonces()
        transactions = Transactions(made.database, chain, sender, made.clock, confirmations=CONFIRMATIONS)
        made.settlement = Settlement(
            made.database, chain, transactions, made.clock, made.files, made.terms, key
        )
        made.clock.advance(61_000)
        await made.settle()
        assert (await chain.ledger()).next_epoch == epoch + 1
        await made.check()
