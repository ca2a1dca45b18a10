"""Permits against the real TestUSD: the contract takes ours, once, and nobody else's."""

import pytest

from tallystick.anvil import anvil_key
from tallystick.evm import Contract, Reverted
from tallystick.permits import NoPermits, sign_permit
from tallystick.protocol.money import TokenUnits
from tests.support.anvil import USD, Market

SECRET = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
"""Anvil's account 1, in the clear: everybody knows it."""


@pytest.mark.anvil
async def test_a_deposit_with_our_permit_needs_no_approve_and_works_once(chain_market: Market) -> None:
    owner = chain_market.wallet(1)
    assert anvil_key(1).address == owner.address
    token, ledger = chain_market.contracts.token, chain_market.contracts.ledger
    await chain_market.give_dollars(owner.address, 10 * USD)
    block = await chain_market.connection.block()
    assert block is not None
    permit = await sign_permit(
        token,
        SECRET,
        chain_id=chain_market.deployment.chain_id,
        owner=owner.address,
        spender=ledger.address,
        units=TokenUnits(4_000_000),
        deadline=block.timestamp + 600,
    )
    call = ledger.prepare("depositWithPermit", 4_000_000, 7, permit.deadline, permit.v, permit.r, permit.s)
    await owner.send(call)
    assert await ledger.read("accountOf", owner.address) == (4 * USD, 0, 7, 0)
    with pytest.raises(Reverted):
        await owner.send(call)
    thief = chain_market.wallet(2)
    with pytest.raises(Reverted):
        await thief.send(call)


@pytest.mark.anvil
async def test_a_contract_without_permits_is_told_apart(chain_market: Market) -> None:
    # Stake stands in for a token that has no nonces of permits.
    token = Contract(chain_market.connection, chain_market.deployment.stake, "TestUSD")
    with pytest.raises(NoPermits, match="has no permits"):
        await sign_permit(
            token,
            SECRET,
            chain_id=chain_market.deployment.chain_id,
            owner=anvil_key(1).address,
            spender=chain_market.deployment.ledger,
            units=TokenUnits(1),
            deadline=2**32,
        )


@pytest.mark.anvil
async def test_a_permit_for_another_chain_is_not_signed(chain_market: Market) -> None:
    with pytest.raises(NoPermits, match="unknown version"):
        await sign_permit(
            chain_market.contracts.token,
            SECRET,
            chain_id=1,
            owner=anvil_key(1).address,
            spender=chain_market.deployment.ledger,
            units=TokenUnits(1),
            deadline=2**32,
        )
