"""The tree over an epoch's receipts, whose root the Ledger records.

    leaf  = keccak256(0x00 ‖ receipt id)
    node  = keccak256(0x01 ‖ left ‖ right)            a level with an odd count gets EMPTY on its right
    root  = keccak256(0x02 ‖ count as uint64 ‖ top)   no receipts: top is EMPTY

Leaves, nodes and roots are hashed in domains of their own, so that none can be shown as another, and the
count is under the root, so that a padded place cannot be shown as a receipt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tallystick.protocol.hashing import keccak256

EMPTY: Final = keccak256(b"tallystick/receipts/empty/v1")
_HASH: Final = 32


@dataclass(frozen=True, slots=True)
class Proof:
    """That a receipt is at place `index` of a tree of `count`; `siblings` go from the leaf up."""

    count: int
    index: int
    siblings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """All levels of a tree, leaves first, each as one byte string that is padded as the tree is."""

    count: int
    root: bytes
    levels: tuple[bytes, ...]

    def proof(self, index: int) -> Proof:
        """Return the proof of the receipt at `index`. Raises IndexError if there is none."""
        if not 0 <= index < self.count:
            raise IndexError(f"receipt {index} of a tree of {self.count}")
        siblings = []
        place = index
        for level in self.levels[:-1]:
            start = (place ^ 1) * _HASH
            siblings.append(level[start : start + _HASH])
            place //= 2
        return Proof(self.count, index, tuple(siblings))


def receipt_tree(receipt_ids: Sequence[bytes]) -> Tree:
    """Return the tree over `receipt_ids` (32 bytes each) in the given order; a million takes a few seconds.

    Raises ValueError for an id of another length.
    """
    if any(len(receipt_id) != _HASH for receipt_id in receipt_ids):
        raise ValueError("a receipt id has 32 bytes")
    keccak = keccak256
    level = b"".join([keccak(b"\x00" + receipt_id) for receipt_id in receipt_ids]) or EMPTY
    levels = []
    while len(level) > _HASH:
        if len(level) % (2 * _HASH):
            level += EMPTY
        levels.append(level)
        level = b"".join([keccak(b"\x01" + level[at : at + 64]) for at in range(0, len(level), 64)])
    levels.append(level)
    count = len(receipt_ids)
    return Tree(count, _root(count, level), tuple(levels))


def verify(root: bytes, receipt_id: bytes, proof: Proof) -> bool:
    """Return whether `proof` shows `receipt_id` under `root`; a malformed proof is a wrong one."""
    if not 0 <= proof.index < proof.count < 2**64 or len(receipt_id) != _HASH:
        return False
    if len(proof.siblings) != (proof.count - 1).bit_length():
        return False
    node = keccak256(b"\x00" + receipt_id)
    place = proof.index
    for sibling in proof.siblings:
        if len(sibling) != _HASH:
            return False
        node = keccak256(b"\x01" + (sibling + node if place & 1 else node + sibling))
        place //= 2
    return _root(proof.count, node) == root


def _root(count: int, top: bytes) -> bytes:
    return keccak256(b"\x02" + count.to_bytes(8, "big") + top)
