"""Rows fit in one word and come back as they were."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol.ids import Address
from tallystick.protocol.rows import BadRow, Row, pack_row, unpack_row
from tests.unit.tallystick.protocol.builders import addresses, bytes32, u32

ACCOUNT = Address("0x" + "ab" * 20)


@settings(max_examples=200)
@given(addresses, st.integers(0, 2**64 - 1), u32)
def test_a_row_comes_back_from_its_word(account: Address, amount: int, flags: int) -> None:
    row = Row(account, amount, flags)
    word = pack_row(row)
    assert unpack_row(word) == row
    assert int.from_bytes(word, "big") == int(account, 16) << 96 | amount << 32 | flags


@settings(max_examples=200)
@given(bytes32)
def test_every_word_is_a_row(word: bytes) -> None:
    assert pack_row(unpack_row(word)) == word


@pytest.mark.parametrize(
    "row",
    [
        Row(ACCOUNT, -1),
        Row(ACCOUNT, 2**64),
        Row(ACCOUNT, 0, -1),
        Row(ACCOUNT, 0, 2**32),
        Row(Address("0x12"), 0),
        Row(Address("0x" + "AB" * 20), 0),
    ],
)
def test_what_does_not_fit_is_refused(row: Row) -> None:
    with pytest.raises(BadRow):
        pack_row(row)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_word_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadRow, match="32 bytes"):
        unpack_row(bytes(length))
