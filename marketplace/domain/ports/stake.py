"""What the chain says about a node. The implementation reads the Stake contract; see `marketplace/chain`."""

from dataclasses import dataclass
from typing import Protocol

from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class NodeStake:
    """Whose node it is, whether its key may work, and what stands behind it (nano-dollars)."""

    operator: Address
    """The zero address for a key that was never registered."""
    active: bool
    """Registered, not removed and not ended."""
    stake: NanoUsd
    eligible: bool
    """Active, and its operator's stake reaches the minimum."""


class StakeBook(Protocol):
    """The stakes behind nodes, as the coordinator knows them now."""

    async def node_stake(self, node: Address) -> NodeStake:
        """Return what stands behind `node`. Raises ChainUnavailable if that cannot be told."""
