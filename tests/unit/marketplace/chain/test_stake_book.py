"""What stands behind a node, read from the real Stake contract."""

import pytest

from marketplace.chain.stake import KEPT_MS, EvmStakeBook
from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.ports.clock import ManualClock
from marketplace.domain.ports.stake import NodeStake
from tallystick.anvil import anvil_key
from tallystick.evm import Wallet
from tallystick.protocol.eip712 import node_consent_digest
from tallystick.protocol.ids import ZERO_ADDRESS
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import LONG_TERMS, Market, anvil_process, market_at

pytestmark = pytest.mark.anvil

OPERATOR, NODE = 6, 7
MINIMUM = LONG_TERMS.minimum_stake


async def put_up(market: Market, operator: Wallet, amount: int) -> None:
    """Stake `amount` nano-dollars."""
    stake = market.contracts.stake
    await market.give_dollars(operator.address, amount)
    await operator.send(market.contracts.token.prepare("approve", stake.address, amount // 1000))
    await operator.send(stake.prepare("stake", amount // 1000))


async def add_node(market: Market, operator: Wallet) -> None:
    """Let the node's key sign that it belongs to the operator, and register it."""
    node = anvil_key(NODE)
    digest = node_consent_digest(market.deployment.stake_domain, operator.address, node.address)
    await operator.send(market.contracts.stake.prepare("addNode", node.address, node.sign_digest(digest)))


async def test_a_key_that_was_never_registered_has_nothing_behind_it(chain_market: Market) -> None:
    book = EvmStakeBook(chain_market.connection, chain_market.deployment, ManualClock())
    assert await book.node_stake(anvil_key(NODE).address) == NodeStake(ZERO_ADDRESS, False, NanoUsd(0), False)


async def test_a_node_is_eligible_once_its_operators_stake_reaches_the_minimum(
    chain_market: Market,
) -> None:
    operator, node = chain_market.wallet(OPERATOR), anvil_key(NODE).address
    book = EvmStakeBook(chain_market.connection, chain_market.deployment, ManualClock())
    await put_up(chain_market, operator, MINIMUM - 1000)
    await add_node(chain_market, operator)
    assert await book.node_stake(node) == NodeStake(operator.address, True, NanoUsd(MINIMUM - 1000), False)
    await put_up(chain_market, operator, 1000)
    book.forget()
    assert await book.node_stake(node) == NodeStake(operator.address, True, NanoUsd(MINIMUM), True)
    await operator.send(chain_market.contracts.stake.prepare("removeNode", node))
    book.forget()
    assert await book.node_stake(node) == NodeStake(operator.address, False, NanoUsd(MINIMUM), False)


async def test_an_answer_is_kept_for_a_while_and_then_asked_for_again(chain_market: Market) -> None:
    operator, node, clock = chain_market.wallet(OPERATOR), anvil_key(NODE).address, ManualClock()
    book = EvmStakeBook(chain_market.connection, chain_market.deployment, clock)
    before = await book.node_stake(node)
    await put_up(chain_market, operator, MINIMUM)
    await add_node(chain_market, operator)
    assert await book.node_stake(node) == before
    clock.advance(KEPT_MS)
    assert (await book.node_stake(node)).eligible


async def test_a_chain_that_is_gone_is_unavailable() -> None:
    with anvil_process() as url:
        async with market_at(url) as market:
            book = EvmStakeBook(market.connection, market.deployment, ManualClock())
            lost = market.connection
    with pytest.raises(ChainUnavailable, match="does not answer"):
        await book.node_stake(anvil_key(NODE).address)
    await lost.close()
