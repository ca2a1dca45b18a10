"""What services may expect of a chain: one suite for Anvil and for the twin."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from marketplace.domain.ports.chain import (
    Authorized,
    Batch,
    BatchRefused,
    Cashed,
    ChainAccount,
    Charge,
    Closing,
    Consent,
    ConsentKeyAdded,
    Deposited,
    Exit,
    FaultKind,
    Payout,
    WithdrawalRequested,
    Withdrawn,
)
from tallystick.anvil import anvil_key
from tallystick.audit_secrets import audit_secret, audit_secret_hash
from tallystick.evm import Call, Connection, NodeUnreachable, Reverted
from tallystick.evm.connection import READS_A_REQUEST, BlockId
from tallystick.protocol.ids import Address
from tallystick.protocol.merkle import receipt_tree
from tests.support.anvil import COORDINATOR, LONG_TERMS, OWNER, USD
from tests.support.chains import ChainDriver, address, chain_driver, consent

ALICE, BOB, CAROL, HELPER = 3, 4, 5, 6


@pytest.fixture(params=["memory", pytest.param("anvil", marks=pytest.mark.anvil)])
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[ChainDriver]:
    async with chain_driver(request.param) as driver:
        yield driver


def closing(driver: ChainDriver, first_epoch: int, epoch: int) -> Closing:
    """Return a closing with the secrets that the coordinator's key makes."""
    key, numbers = anvil_key(COORDINATOR), {"chain_id": 31337, "genesis": driver.clock.genesis}
    return Closing(
        receipts_root=receipt_tree([]).root,
        receipt_count=0,
        file_hash=bytes(range(32)),
        audit_secret=audit_secret(key, first_epoch=first_epoch, **numbers),
        next_audit_secret_hash=audit_secret_hash(audit_secret(key, first_epoch=epoch + 1, **numbers)),
    )


async def send(driver: ChainDriver, batch: Batch) -> bool:
    """Sign and send a batch, and return whether it succeeded once it was mined."""
    signed = await driver.sender.sign(batch, await driver.sender.next_nonce())
    await driver.sender.broadcast(signed.raw)
    # Anvil takes a transaction first and mines it a moment later.
    async with asyncio.timeout(60):
        while (outcome := await driver.sender.outcome(signed.hash)) is None:  # noqa: ASYNC110 - the chain tells nobody
            await asyncio.sleep(0.02)
    return outcome.succeeded


async def test_events_come_in_order_with_the_block_they_are_in(driver: ChainDriver) -> None:
    start = (await driver.chain.head()).number
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    await driver.authorize(ALICE, 2 * USD)
    await driver.add_consent_key(ALICE, address(HELPER))
    await driver.request_withdrawal(ALICE, 3 * USD)
    head = await driver.chain.head()
    events = list(await driver.chain.events(start + 1, head.number))
    kinds = [type(event) for event in events]
    assert sorted(kinds[:2], key=str) == [Authorized, Deposited]
    assert kinds[2:] == [Authorized, ConsentKeyAdded, WithdrawalRequested]
    deposited = next(event for event in events if isinstance(event, Deposited))
    assert (deposited.account, deposited.amount) == (address(ALICE), 5 * USD)
    rights = [event.authorized for event in events if isinstance(event, Authorized)]
    assert rights == [USD, 2 * USD]
    request = events[-1]
    assert isinstance(request, WithdrawalRequested)
    assert request.payable_at >= head.timestamp + LONG_TERMS.thaw - 1
    for event in events:
        block = await driver.chain.block(event.place.block_number)
        assert block is not None
        assert block.hash == event.place.block_hash
    assert len({(event.place.transaction, event.place.log_index) for event in events}) == len(events)


async def test_no_events_in_no_blocks(driver: ChainDriver) -> None:
    head = await driver.chain.head()
    assert list(await driver.chain.events(head.number + 1, head.number)) == []
    assert await driver.chain.block(head.number + 1) is None


async def test_accounts_are_as_of_now_and_unused_ones_are_zero(driver: ChainDriver) -> None:
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    found = await driver.chain.accounts([address(ALICE), address(CAROL)])
    assert found[address(ALICE)] == ChainAccount(5 * USD, 0, USD, 0)
    assert found[address(CAROL)] == ChainAccount(0, 0, 0, 0)
    ledger = await driver.chain.ledger()
    assert (ledger.next_epoch, ledger.chunks, ledger.pool, ledger.bond) == (0, 0, 0, 100 * USD)
    assert ledger.coordinator == driver.sender.address == address(COORDINATOR)


async def test_a_request_stands_until_it_is_paid_after_the_thaw(driver: ChainDriver) -> None:
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    await driver.request_withdrawal(ALICE, 2**64 - 1)
    assert (await driver.chain.exit_of(address(ALICE))).amount == 2**64 - 1
    with pytest.raises(Reverted, match="still thawing"):
        await driver.withdraw(ALICE)
    await driver.wait(LONG_TERMS.thaw)
    before = (await driver.chain.head()).number
    await driver.withdraw(ALICE)
    events = await driver.chain.events(before + 1, (await driver.chain.head()).number)
    assert [event.amount for event in events if isinstance(event, Withdrawn)] == [5 * USD]
    assert [event.authorized for event in events if isinstance(event, Authorized)] == [0]
    assert await driver.chain.exit_of(address(ALICE)) == Exit(0, 0)


async def test_an_epoch_is_settled_in_chunks_and_closed_once(driver: ChainDriver) -> None:
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    await driver.deposit(CAROL, 5 * USD)
    await driver.wait(3 * LONG_TERMS.epoch_length)
    first = Batch(
        2,
        0,
        (
            Charge(address(ALICE), USD),
            Charge(address(CAROL), 2 * USD, consent(driver.domain, CAROL, 4 * USD)),
        ),
        (),
    )
    assert await driver.chain.simulate(first) is None
    assert await send(driver, first)
    ledger = await driver.chain.ledger()
    assert (ledger.next_epoch, ledger.chunks, ledger.pool) == (2, 1, 3 * USD)
    last = Batch(2, 1, (), (Payout(address(BOB), 3 * USD),), closing(driver, 0, 2))
    assert await send(driver, last)
    ledger = await driver.chain.ledger()
    assert (ledger.next_epoch, ledger.chunks, ledger.pool) == (3, 0, 0)
    found = await driver.chain.accounts([address(ALICE), address(BOB), address(CAROL)])
    assert found[address(ALICE)] == ChainAccount(4 * USD, USD, USD, 0)
    assert found[address(BOB)].earned == 3 * USD
    assert found[address(CAROL)].authorized == 4 * USD
    fault = await driver.chain.simulate(last)
    assert fault is not None
    assert fault.kind is FaultKind.BATCH
    assert "epoch closed" in fault.reason


async def test_an_epoch_that_runs_is_refused(driver: ChainDriver) -> None:
    fault = await driver.chain.simulate(
        Batch(driver.clock.at((await driver.chain.head()).timestamp), 0, (), ())
    )
    assert fault is not None
    assert fault.kind is FaultKind.BATCH
    assert "epoch not over" in fault.reason


@pytest.mark.parametrize(
    ("charge", "words"),
    [
        (lambda domain: Charge(address(BOB), 2), "beyond right"),
        (lambda domain: Charge(address(BOB), 2, consent(domain, BOB, 2)), "beyond balance"),
        (lambda domain: Charge(address(BOB), 2, consent(domain, BOB, 2, key=anvil_key(HELPER))), "forged"),
        (lambda domain: Charge(address(BOB), 2, Consent(2, bytes(65))), "malformed"),
    ],
)
async def test_a_refused_charge_is_named_by_its_row(driver: ChainDriver, charge: object, words: str) -> None:
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    await driver.wait(2 * LONG_TERMS.epoch_length)
    rows = (Charge(address(ALICE), USD), charge(driver.domain))
    fault = await driver.chain.simulate(Batch(0, 0, rows, ()))
    assert fault is not None
    assert (fault.kind, fault.row) == (FaultKind.CHARGE, 1)
    assert words in fault.reason
    with pytest.raises(BatchRefused) as refused:
        await driver.sender.sign(Batch(0, 0, rows, ()), await driver.sender.next_nonce())
    assert refused.value.fault == fault


async def test_a_consent_key_signs_for_its_account_once_it_is_added(driver: ChainDriver) -> None:
    await driver.deposit(ALICE, 5 * USD)
    await driver.add_consent_key(ALICE, address(HELPER))
    await driver.wait(2 * LONG_TERMS.epoch_length)
    signed = consent(driver.domain, ALICE, USD, key=anvil_key(HELPER))
    assert (
        await driver.chain.simulate(Batch(0, 0, (Charge(address(ALICE), signed.spent, signed),), ())) is None
    )


async def test_a_payout_beyond_the_pool_is_named_by_its_row(driver: ChainDriver) -> None:
    await driver.wait(2 * LONG_TERMS.epoch_length)
    payouts = (Payout(address(OWNER), 0), Payout(address(BOB), 1))
    fault = await driver.chain.simulate(Batch(0, 0, (), payouts))
    assert fault is not None
    assert (fault.kind, fault.row) == (FaultKind.PAYOUT, 1)


async def test_a_closing_needs_an_empty_pool_and_the_secret_that_was_committed(driver: ChainDriver) -> None:
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    await driver.wait(2 * LONG_TERMS.epoch_length)
    charges = (Charge(address(ALICE), USD),)
    fault = await driver.chain.simulate(Batch(0, 0, charges, (), closing(driver, 0, 0)))
    assert fault is not None
    assert "pool left" in fault.reason
    fault = await driver.chain.simulate(Batch(0, 0, (), (), closing(driver, 1, 0)))
    assert fault is not None
    assert "wrong audit secret" in fault.reason


async def test_a_transaction_that_waits_counts_for_the_next_nonce_and_has_no_outcome(
    driver: ChainDriver,
) -> None:
    await driver.wait(2 * LONG_TERMS.epoch_length)
    nonce = await driver.sender.next_nonce()
    signed = await driver.sender.sign(Batch(0, 0, (), (), closing(driver, 0, 0)), nonce)
    await driver.hold_back(True)
    await driver.sender.broadcast(signed.raw)
    await driver.sender.broadcast(signed.raw)
    assert await driver.sender.next_nonce() == nonce + 1
    assert await driver.sender.used_nonces() == nonce
    assert await driver.sender.outcome(signed.hash) is None
    await driver.hold_back(False)
    await driver.mine()
    outcome = await driver.sender.outcome(signed.hash)
    assert outcome is not None
    assert outcome.succeeded
    assert await driver.sender.used_nonces() == nonce + 1
    await driver.sender.broadcast(signed.raw)


async def test_a_nonce_can_be_used_for_nothing(driver: ChainDriver) -> None:
    await driver.wait(LONG_TERMS.epoch_length)
    nonce = await driver.sender.next_nonce()
    signed = await driver.sender.sign(Batch(0, 0, (), (), closing(driver, 0, 0)), nonce + 1)
    await driver.sender.broadcast(signed.raw)
    await driver.mine()
    assert await driver.sender.outcome(signed.hash) is None
    await driver.sender.skip(nonce)
    await driver.mine()
    await driver.sender.skip(nonce)
    await driver.mine()
    assert await driver.sender.used_nonces() == nonce + 2
    outcome = await driver.sender.outcome(signed.hash)
    assert outcome is not None
    assert outcome.succeeded


async def test_a_replacement_that_bids_more_takes_the_nonce(driver: ChainDriver) -> None:
    await driver.wait(2 * LONG_TERMS.epoch_length)
    nonce, batch = await driver.sender.next_nonce(), Batch(0, 0, (), (), closing(driver, 0, 0))
    await driver.hold_back(True)
    first = await driver.sender.sign(batch, nonce)
    await driver.sender.broadcast(first.raw)
    second = await driver.sender.sign(batch, nonce, urgency=1)
    await driver.sender.broadcast(second.raw)
    await driver.hold_back(False)
    await driver.mine()
    assert await driver.sender.outcome(first.hash) is None
    outcome = await driver.sender.outcome(second.hash)
    assert outcome is not None
    assert outcome.succeeded


async def test_a_reorganisation_takes_events_back_and_changes_hashes(driver: ChainDriver) -> None:
    before = await driver.chain.head()
    await driver.deposit(ALICE, 5 * USD)
    head = await driver.chain.head()
    await driver.reorganise(head.number - before.number)
    again = await driver.chain.block(head.number)
    assert again is not None
    assert again.hash != head.hash
    assert list(await driver.chain.events(before.number + 1, (await driver.chain.head()).number)) == []
    assert (await driver.chain.accounts([address(ALICE)]))[address(ALICE)].balance == 0
    same = await driver.chain.block(before.number)
    assert same is not None
    assert same.hash == before.hash


async def test_a_cheque_is_paid_from_the_bond_once_its_epoch_is_closed(driver: ChainDriver) -> None:
    await driver.wait(2 * LONG_TERMS.epoch_length)
    assert await send(driver, Batch(0, 0, (), (), closing(driver, 0, 0)))
    before = (await driver.chain.head()).number
    await driver.cash(BOB, 0, 7 * USD)
    events = await driver.chain.events(before + 1, (await driver.chain.head()).number)
    cashed = [event for event in events if isinstance(event, Cashed)]
    assert [(event.account, event.paid, event.credited) for event in cashed] == [
        (address(BOB), 7 * USD, 7 * USD)
    ]
    assert (await driver.chain.ledger()).bond == 93 * USD
    with pytest.raises(Reverted, match="nothing to cash"):
        await driver.cash(BOB, 0, 7 * USD)


async def test_more_accounts_than_one_request_takes_are_each_their_own(driver: ChainDriver) -> None:
    await driver.deposit(ALICE, 5 * USD, authorized=USD)
    strangers = [Address(f"0x{number:040x}") for number in range(1, 3 * READS_A_REQUEST)]
    asked = [*strangers[:150], address(ALICE), *strangers[150:]]
    found = await driver.chain.accounts(asked)
    assert list(found) == asked
    assert found.pop(address(ALICE)) == ChainAccount(5 * USD, 0, USD, 0)
    assert set(found.values()) == {ChainAccount(0, 0, 0, 0)}
    assert await driver.chain.accounts([]) == {}


@pytest.mark.anvil
async def test_a_node_that_takes_one_call_at_a_time_is_asked_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(connection: Connection, calls: Sequence[Call], *, at: BlockId) -> list[bytes]:
        raise NodeUnreachable(f"{len(calls)} calls at once are too many")

    monkeypatch.setattr(Connection, "call_all", refuse)
    async with chain_driver("anvil") as driver:
        await driver.deposit(ALICE, 5 * USD, authorized=USD)
        found = await driver.chain.accounts([address(ALICE), address(BOB)])
    assert found == {address(ALICE): ChainAccount(5 * USD, 0, USD, 0), address(BOB): ChainAccount(0, 0, 0, 0)}
