"""What stands behind nodes, read from the Stake contract and kept until something moves there."""

from typing import Final

from marketplace.chain.evm import unavailable
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.stake import NodeStake
from tallystick.deployment import Contracts, Deployment
from tallystick.evm import Connection, EvmError
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd

KEPT_MS: Final = 30_000
"""Longest that an answer is kept although no event was seen: eligibility can also end by time."""
_ACTIVE: Final = 1


class EvmStakeBook:
    """Implements `StakeBook`. `forget` is to be called when the Stake contract emitted something."""

    def __init__(self, connection: Connection, deployment: Deployment, clock: Clock) -> None:
        self._stake = Contracts.at(connection, deployment).stake
        self._clock = clock
        self._known: dict[Address, tuple[int, NodeStake]] = {}

    async def node_stake(self, node: Address) -> NodeStake:
        """Return what stands behind `node`. Raises ChainUnavailable if it is not known and cannot be read."""
        now = self._clock.now_ms()
        known = self._known.get(node)
        if known is not None and now - known[0] < KEPT_MS:
            return known[1]
        try:
            found = await self._read(node)
        except EvmError as error:
            raise unavailable(error) from error
        self._known[node] = (now, found)
        return found

    def forget(self) -> None:
        """Drop every answer, so that the next question is asked of the chain."""
        self._known.clear()

    async def _read(self, node: Address) -> NodeStake:
        operator, status = await self._stake.read("operatorOf", node)
        active, _leaving, _payable_at = await self._stake.read("stakeOf", operator)
        is_eligible = await self._stake.read("isEligible", operator)
        is_active = status == _ACTIVE
        return NodeStake(operator, is_active, NanoUsd(active), is_active and is_eligible)
