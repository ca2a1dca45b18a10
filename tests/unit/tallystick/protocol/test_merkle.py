"""The receipt tree: every proof verifies, and nothing else does."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.merkle import BLOCK, EMPTY, Proof, receipt_crown, receipt_tree, verify
from tests.unit.tallystick.protocol.builders import bytes32

some_ids = st.lists(bytes32, min_size=1, max_size=70)


def naive_root(ids: list[bytes]) -> bytes:
    """The root as the definition says it, level by level."""
    level = [keccak256(b"\x00" + receipt_id) for receipt_id in ids] or [EMPTY]
    while len(level) > 1:
        level += [EMPTY] * (len(level) % 2)
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [keccak256(b"\x01" + left + right) for left, right in pairs]
    return keccak256(b"\x02" + len(ids).to_bytes(8, "big") + level[0])


@settings(max_examples=200, deadline=None)
@given(some_ids)
def test_every_proof_of_a_tree_verifies(ids: list[bytes]) -> None:
    tree = receipt_tree(ids)
    assert tree.root == naive_root(ids)
    for index, receipt_id in enumerate(ids):
        assert verify(tree.root, receipt_id, tree.proof(index))


@settings(max_examples=400, deadline=None)
@given(st.lists(bytes32, min_size=1, max_size=70, unique=True), st.data())
def test_a_proof_with_any_bit_changed_fails(ids: list[bytes], data: st.DataObject) -> None:
    tree = receipt_tree(ids)
    index = data.draw(st.integers(0, len(ids) - 1))
    proof = tree.proof(index)
    parts = ["root", "id", "count", "index"] + [f"sibling {n}" for n in range(len(proof.siblings))]
    part = data.draw(st.sampled_from(parts))
    bit = data.draw(st.integers(0, 255))
    root, receipt_id = tree.root, ids[index]
    match part:
        case "root":
            root = flip(root, bit)
        case "id":
            receipt_id = flip(receipt_id, bit)
        case "count":
            proof = replace(proof, count=proof.count ^ 1 << bit % 64)
        case "index":
            proof = replace(proof, index=proof.index ^ 1 << bit % 64)
        case _:
            place = int(part.removeprefix("sibling "))
            changed = list(proof.siblings)
            changed[place] = flip(changed[place], bit)
            proof = replace(proof, siblings=tuple(changed))
    assert not verify(root, receipt_id, proof)


def flip(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


@settings(max_examples=300, deadline=None)
@given(
    bytes32,
    bytes32,
    st.integers(-2, 2**65),
    st.integers(-2, 2**65),
    st.lists(st.binary(max_size=40), max_size=70),
)
def test_malformed_proofs_are_wrong_and_crash_nothing(
    root: bytes, receipt_id: bytes, count: int, index: int, siblings: list[bytes]
) -> None:
    assert not verify(root, receipt_id, Proof(count, index, tuple(siblings)))


def test_a_padded_place_is_no_receipt() -> None:
    ids = [bytes([n]) * 32 for n in range(3)]
    tree = receipt_tree(ids)
    siblings = (keccak256(b"\x00" + ids[2]), *tree.proof(2).siblings[1:])
    assert not verify(tree.root, EMPTY, Proof(3, 3, siblings))
    with pytest.raises(IndexError):
        tree.proof(3)
    with pytest.raises(IndexError):
        tree.proof(-1)


def test_an_inner_node_is_no_receipt() -> None:
    ids = [bytes([n]) * 32 for n in range(4)]
    tree = receipt_tree(ids)
    inner = tree.levels[1][:32]
    assert not verify(tree.root, inner, Proof(4, 0, tree.proof(0).siblings[1:]))
    assert not verify(tree.root, inner, Proof(2, 0, tree.proof(0).siblings[1:]))


def test_the_tree_of_nothing_has_a_root_and_no_proof() -> None:
    tree = receipt_tree([])
    assert tree.root == keccak256(b"\x02" + bytes(8) + EMPTY)
    assert not verify(tree.root, EMPTY, Proof(0, 0, ()))
    with pytest.raises(IndexError):
        tree.proof(0)


def test_an_id_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        receipt_tree([bytes(32), bytes(31)])


@pytest.mark.slow
def test_a_million_receipts_take_seconds() -> None:
    ids = [number.to_bytes(32, "big") for number in range(1_000_000)]
    started = time.process_time()
    tree = receipt_tree(ids)
    assert time.process_time() - started < 15
    assert verify(tree.root, ids[777_777], tree.proof(777_777))


def numbered_ids(count: int) -> list[bytes]:
    return [keccak256(number.to_bytes(8, "big")) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1, 5_000])
def test_a_crown_proves_what_its_tree_proves(count: int) -> None:
    ids = numbered_ids(count)
    tree, crown = receipt_tree(ids), receipt_crown(iter(ids), count)
    assert (crown.root, crown.count) == (tree.root, count)
    for index in {0, 1, BLOCK - 1, BLOCK, count // 2, count - 2, count - 1}:
        if 0 <= index < count:
            block = crown.block(index)
            assert crown.proof(index, ids[block.start : block.stop]) == tree.proof(index)
    with pytest.raises(IndexError):
        crown.block(count)


def test_a_crown_is_a_thousandth_of_its_tree() -> None:
    ids = numbered_ids(20 * BLOCK)
    tree, crown = receipt_tree(ids), receipt_crown(ids, len(ids))
    assert sum(map(len, crown.levels)) * 500 < sum(map(len, tree.levels))


def test_a_crown_wants_the_ids_that_were_announced_and_a_proof_those_of_its_block() -> None:
    ids = numbered_ids(BLOCK + 5)
    crown = receipt_crown(ids, len(ids))
    for count in (BLOCK + 4, BLOCK + 6):
        with pytest.raises(ValueError, match="announced"):
            receipt_crown(ids, count)
    with pytest.raises(ValueError, match="block"):
        crown.proof(BLOCK, ids[:BLOCK])
    with pytest.raises(ValueError, match="32 bytes"):
        receipt_crown([bytes(31)], 1)
