"""Wallets and contracts on a real local chain."""

import asyncio
from dataclasses import replace

import pytest

from tallystick.audit_secrets import audit_secret, audit_secret_hash
from tallystick.deployment import BadDeployment, Contracts
from tallystick.evm import Call, NodeUnreachable, Reverted, connect
from tallystick.protocol.eip712 import Domain
from tests.support.anvil import LONG_TERMS, USD, Market

pytestmark = pytest.mark.anvil


async def test_a_deployment_says_what_the_contracts_say(chain_market: Market) -> None:
    ledger, deployment = chain_market.contracts.ledger, chain_market.deployment
    assert await ledger.read("genesis") == deployment.genesis
    assert await ledger.read("epochLength") == deployment.epoch_length == LONG_TERMS.epoch_length
    assert await ledger.read("coordinator") == deployment.coordinator
    assert await ledger.read("token") == deployment.token
    assert await chain_market.contracts.stake.read("minimum") == LONG_TERMS.minimum_stake
    assert await ledger.read("DOMAIN_SEPARATOR") == deployment.ledger_domain.separator
    assert await chain_market.contracts.stake.read("DOMAIN_SEPARATOR") == deployment.stake_domain.separator
    assert deployment.stake_domain == Domain(31337, deployment.stake)


async def test_the_first_audit_secret_is_the_one_that_the_coordinator_can_make_again(
    chain_market: Market,
) -> None:
    secret = audit_secret(
        chain_market.coordinator_key, chain_id=31337, genesis=chain_market.deployment.genesis, first_epoch=0
    )
    assert await chain_market.contracts.ledger.read("auditSecretHash") == audit_secret_hash(secret)


async def test_an_endowed_market_has_its_deposit_and_its_bond(chain_market: Market) -> None:
    account = await chain_market.contracts.ledger.read("accountOf", chain_market.owner.address)
    assert account[0] == 100 * USD
    assert await chain_market.contracts.ledger.read("bond") == 100 * USD


async def test_a_deposit_shows_as_an_event_with_lower_case_addresses(chain_market: Market) -> None:
    consumer = chain_market.wallet(3)
    mined = await chain_market.deposit(consumer, 5 * USD, authorized=2 * USD)
    ledger = chain_market.contracts.ledger
    logs = await chain_market.connection.logs(
        {ledger.address: ledger.artifact}, mined.block_number, mined.block_number
    )
    events = {log.event: log for log in logs}
    assert events["Deposited"].fields["account"] == consumer.address
    assert events["Deposited"].fields["amount"] == 5 * USD
    assert events["Authorized"].fields == {"account": consumer.address, "authorized": 2 * USD}
    assert {log.block_hash for log in logs} == {mined.block_hash}
    assert {log.transaction for log in logs} == {mined.transaction}


async def test_what_would_revert_is_not_sent_and_says_why_with_its_numbers(chain_market: Market) -> None:
    consumer = chain_market.wallet(3)
    await chain_market.deposit(consumer, 5 * USD, authorized=2 * USD)
    nonce = await chain_market.connection.nonce(consumer.address)
    with pytest.raises(Reverted) as caught:
        await consumer.send(chain_market.contracts.ledger.prepare("authorize", 1 * USD))
    assert caught.value.name == "Ledger_RightGoesBack"
    assert caught.value.fields == {"given": 1 * USD, "recorded": 2 * USD}
    assert caught.value.text == "Ledger: right goes back (given $1.00, recorded $2.00)"
    assert await chain_market.connection.nonce(consumer.address) == nonce


async def test_a_refusal_that_names_a_time_shows_it_as_one(chain_market: Market) -> None:
    consumer = chain_market.wallet(3)
    await chain_market.deposit(consumer, 5 * USD)
    await consumer.send(chain_market.contracts.ledger.prepare("requestWithdrawal", USD))
    with pytest.raises(Reverted, match=r"still thawing \(account 0x[0-9a-f]{40}, payable at \d{4}-.* UTC\)"):
        await consumer.send(chain_market.contracts.ledger.prepare("withdraw"))


async def test_the_tokens_own_errors_are_read_too(chain_market: Market) -> None:
    token = chain_market.contracts.token
    with pytest.raises(Reverted, match="insufficient balance"):
        await chain_market.wallet(4).send(token.prepare("transfer", chain_market.owner.address, 1))


async def test_twenty_sends_at_once_get_twenty_nonces(chain_market: Market) -> None:
    wallet, token = chain_market.wallet(5), chain_market.contracts.token
    await asyncio.gather(*(wallet.send(token.prepare("mint", wallet.address, 7)) for _ in range(20)))
    assert await token.read("balanceOf", wallet.address) == 140


async def test_an_unreadable_revert_still_has_words(chain_market: Market) -> None:
    with pytest.raises(Reverted, match="revert"):
        await chain_market.wallet(5).simulate(Call(chain_market.deployment.ledger, b"\xde\xad\xbe\xef"))


async def test_a_view_of_a_contract_that_is_not_there_says_so(chain_market: Market) -> None:
    nowhere = chain_market.owner.address
    moved = replace(chain_market.deployment, ledger=nowhere)
    with pytest.raises(NodeUnreachable, match="there is no Ledger at"):
        await Contracts.at(chain_market.connection, moved).ledger.read("bond")


async def test_no_chain_is_told_with_its_address() -> None:
    with pytest.raises(NodeUnreachable, match=r"no chain answers at http://127\.0\.0\.1:9"):
        await connect("http://127.0.0.1:9")


async def test_a_deployment_of_another_chain_is_refused(chain_market: Market) -> None:
    other = replace(chain_market.deployment, chain_id=1)
    with pytest.raises(BadDeployment, match="on chain 1"):
        Contracts.at(chain_market.connection, other)
