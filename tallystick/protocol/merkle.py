"""The tree over an epoch's receipts, whose root the Ledger records.

    leaf  = keccak256(0x00 ‖ receipt id)
    node  = keccak256(0x01 ‖ left ‖ right)            a level with an odd count gets EMPTY on its right
    root  = keccak256(0x02 ‖ count as uint64 ‖ top)   no receipts: top is EMPTY

Leaves, nodes and roots are hashed in domains of their own, so that none can be shown as another, and the
count is under the root, so that a padded place cannot be shown as a receipt.

A large tree need not be held to prove places in it: its crown, from the tops of blocks of 1,024 receipts up,
is a thousandth of it, and the rest of a proof is made from the ids of one block.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tallystick.protocol.hashing import keccak256, new_keccak256

EMPTY: Final = keccak256(b"tallystick/receipts/empty/v1")
BLOCK: Final = 1_024
"""Receipts below one node of a crown's lowest level."""
_BLOCK_HEIGHT: Final = BLOCK.bit_length() - 1
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


@dataclass(frozen=True, slots=True)
class Crown:
    """The upper part of a tree: its levels from the tops of blocks of BLOCK leaves on, as in `Tree`."""

    count: int
    root: bytes
    levels: tuple[bytes, ...]

    def block(self, index: int) -> range:
        """Return the places whose ids a proof for the place `index` is made of. Raises IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(f"receipt {index} of a tree of {self.count}")
        first = index // BLOCK * BLOCK
        return range(first, min(first + BLOCK, self.count))

    def proof(self, index: int, ids: Sequence[bytes]) -> Proof:
        """Return the proof of the receipt at `index`; `ids` are those of its block, in order.

        Raises IndexError if there is no such place, ValueError if `ids` are not the block's.
        """
        block = self.block(index)
        if len(ids) != len(block):
            raise ValueError(f"{len(ids)} ids where the block of receipt {index} has {len(block)}")
        levels = [*_levels(_leaves(ids), min(_BLOCK_HEIGHT, _height(self.count)))[:-1], *self.levels]
        siblings, place = [], index % BLOCK
        for height, level in enumerate(levels[:-1]):
            if height == _BLOCK_HEIGHT:
                place = index // BLOCK
            start = (place ^ 1) * _HASH
            siblings.append(level[start : start + _HASH])
            place //= 2
        return Proof(self.count, index, tuple(siblings))


def receipt_tree(receipt_ids: Sequence[bytes]) -> Tree:
    """Return the tree over `receipt_ids` (32 bytes each) in the given order; a million takes a few seconds.

    Raises ValueError for an id of another length.
    """
    count = len(receipt_ids)
    levels = _levels(_leaves(receipt_ids) or EMPTY, _height(count))
    return Tree(count, _root(count, levels[-1]), tuple(levels))


def receipt_crown(receipt_ids: Iterable[bytes], count: int) -> Crown:
    """Return the crown of the tree over `count` ids, which are not held; its root is the tree's.

    Raises ValueError for an id of another length, or if they are not `count`.
    """
    height, tops, seen = min(_BLOCK_HEIGHT, _height(count)), [], 0
    source = iter(receipt_ids)
    while ids := list(islice(source, BLOCK)):
        tops.append(_levels(_leaves(ids), height)[-1])
        seen += len(ids)
    if seen != count:
        raise ValueError(f"{seen} ids came where {count} were announced")
    levels = _levels(b"".join(tops) or EMPTY, _height(count) - height)
    return Crown(count, _root(count, levels[-1]), tuple(levels))


def root_of(receipt_ids: Sequence[bytes]) -> bytes:
    """Return the root of the tree over `receipt_ids` without holding the tree."""
    return receipt_crown(receipt_ids, len(receipt_ids)).root


def verify(root: bytes, receipt_id: bytes, proof: Proof) -> bool:
    """Return whether `proof` shows `receipt_id` under `root`; a malformed proof is a wrong one."""
    if not 0 <= proof.index < proof.count < 2**64 or len(receipt_id) != _HASH:
        return False
    if len(proof.siblings) != _height(proof.count):
        return False
    node = keccak256(b"\x00" + receipt_id)
    place = proof.index
    for sibling in proof.siblings:
        if len(sibling) != _HASH:
            return False
        node = keccak256(b"\x01" + (sibling + node if place & 1 else node + sibling))
        place //= 2
    return _root(proof.count, node) == root


def _height(count: int) -> int:
    """Return how many levels lie above the leaves of a tree of `count`."""
    return max(0, count - 1).bit_length()


def _leaves(receipt_ids: Sequence[bytes]) -> bytes:
    if any(len(receipt_id) != _HASH for receipt_id in receipt_ids):
        raise ValueError("a receipt id has 32 bytes")
    new = new_keccak256
    return b"".join([new(b"\x00" + receipt_id).digest() for receipt_id in receipt_ids])


def _levels(level: bytes, height: int) -> list[bytes]:
    """Return a level and the `height` levels above it, all but the last padded to an even count."""
    new = new_keccak256
    levels = []
    for _ in range(height):
        if len(level) % (2 * _HASH):
            level += EMPTY
        levels.append(level)
        level = b"".join([new(b"\x01" + level[at : at + 64]).digest() for at in range(0, len(level), 64)])
    return [*levels, level]


def _root(count: int, top: bytes) -> bytes:
    return keccak256(b"\x02" + count.to_bytes(8, "big") + top)
