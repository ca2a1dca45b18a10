"""What is kept of a receipt tree: enough to find a receipt's place in it, and to prove the place."""

from bisect import bisect_right
from dataclasses import dataclass

from tallystick.protocol.merkle import BLOCK, Crown, receipt_crown
from tallystick.protocol.receipt_ids import ReceiptIds

LAST_ID = b"\xff" * 33
"""Greater than every id."""


@dataclass(frozen=True, slots=True)
class KeptTree:
    """A tree's crown, and the first id of each block of BLOCK receipts, joined; ids are in rising order."""

    crown: Crown
    firsts: bytes

    @classmethod
    def of(cls, ids: ReceiptIds) -> "KeptTree":
        """Return what is kept of the tree over `ids`, which come in order."""
        return cls(receipt_crown(ids, len(ids)), b"".join(ids[at] for at in range(0, len(ids), BLOCK)))

    def block_of(self, receipt_id: bytes) -> range:
        """Return the places of the block in which a receipt is, if it is in the tree."""
        block = max(0, bisect_right(ReceiptIds(self.firsts), receipt_id) - 1)
        return self.crown.block(block * BLOCK)

    def bounds(self, places: range) -> tuple[bytes, bytes]:
        """Return the first id of a block, and the one that follows its last."""
        firsts, block = ReceiptIds(self.firsts), places.start // BLOCK
        return firsts[block], firsts[block + 1] if block + 1 < len(firsts) else LAST_ID
