"""What the chain can tell of what a coordinator did before, for those who check its books."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from marketplace.domain.ports.chain import Place
from tallystick.protocol.ids import Address


@dataclass(frozen=True, slots=True)
class ClosedEpoch:
    """What the Ledger said when it closed an epoch, and where."""

    receipts_root: bytes
    receipt_count: int
    file_hash: bytes
    audit_secret: bytes
    next_audit_secret_hash: bytes
    place: Place


class Witness(Protocol):
    """Reads of the past; they may take long on a long chain."""

    async def closed_epochs(self, first_block: int, last_block: int) -> Mapping[int, ClosedEpoch]:
        """Return the epochs that were closed in some blocks, by number. Raises ChainUnavailable."""

    async def was_coordinator(self, key: Address) -> bool:
        """Return whether the key is, or was, the coordinator's. Raises ChainUnavailable."""
