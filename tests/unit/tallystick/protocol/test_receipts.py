"""What a receipt charges and pays, and its rendering as JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol.eip712 import sign_receipt
from tallystick.protocol.ids import ReceiptId, to_address, to_bytes32, to_hex
from tallystick.protocol.receipt_ids import ReceiptIds
from tallystick.protocol.receipts import (
    Receipt,
    SignedReceipt,
    receipt_charge,
    receipt_earning,
    receipt_fee_up,
)
from tallystick.protocol.rendering import BadRendering, receipt_from_json, receipt_to_json
from tests.unit.tallystick.protocol.builders import LEDGER, NODE, make_receipt, receipts


@settings(max_examples=200)
@given(receipts, st.integers(0, 10_000))
def test_the_nodes_and_the_markets_share_add_up_to_the_charge(receipt: Receipt, fee_bps: int) -> None:
    fields = {name: getattr(receipt, name) for name in Receipt.__struct_fields__}
    receipt = Receipt(**(fields | {"fee_bps": fee_bps}))
    assert receipt_earning(receipt) + receipt_fee_up(receipt) == receipt_charge(receipt)
    assert receipt_earning(receipt) >= 0


def test_a_charge_is_tokens_times_price() -> None:
    receipt = make_receipt(prompt_tokens=3, input_price=100, output_tokens=7, output_price=300, fee_bps=500)
    assert receipt_charge(receipt) == 2400
    assert receipt_fee_up(receipt) == 120
    assert receipt_earning(receipt) == 2280


@pytest.mark.parametrize("fee_bps", [-1, 10_001])
def test_a_fee_over_the_whole_is_refused(fee_bps: int) -> None:
    with pytest.raises(ValueError, match="basis points"):
        receipt_earning(make_receipt(fee_bps=fee_bps))


@settings(max_examples=200)
@given(receipts)
def test_a_rendered_receipt_comes_back_through_json(receipt: Receipt) -> None:
    signed = SignedReceipt(receipt=receipt, signature=NODE.sign_digest(receipt.nonce))
    assert receipt_from_json(json.loads(json.dumps(receipt_to_json(signed)))) == signed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job_id", "0x12"),
        ("job_id", None),
        ("account", "0x12"),
        ("attempt", -1),
        ("attempt", 1.5),
        ("attempt", "1"),
        ("fee_bps", 70_000),
        ("input_price", 300),
        ("input_price", "-1"),
        ("input_price", "3e2"),
        ("input_price", "9" * 20),
        ("input_price", "３００"),
    ],
)
def test_a_malformed_rendering_is_refused(name: str, value: Any) -> None:
    good = receipt_to_json(sign_receipt(LEDGER, make_receipt(), NODE))
    with pytest.raises(BadRendering):
        receipt_from_json(good | {"receipt": good["receipt"] | {name: value}})
    for wrong in ({}, {"receipt": 1}, good | {"signature": "0x12"}, good | {"signature": 7}):
        with pytest.raises(BadRendering):
            receipt_from_json(wrong)


def test_ids_are_read_in_one_form_only() -> None:
    assert to_address("0x" + "AB" * 20) == "0x" + "ab" * 20
    assert to_bytes32("0x" + "AB" * 32) == to_bytes32("ab" * 32) == b"\xab" * 32
    assert to_hex(b"\xab") == "0xab"
    for address in ("ab" * 20, "0x" + "ab" * 19, "0x" + "ab" * 19 + "  ", "0x" + "zz" * 20, "0X" + "ab" * 21):
        with pytest.raises(ValueError, match="address"):
            to_address(address)
    for hash_ in ("", "0x", "ab" * 31, "0x" + "ab " * 32, "0x0x" + "ab" * 31):
        with pytest.raises(ValueError, match="32 bytes"):
            to_bytes32(hash_)


def test_joined_ids_are_the_sequence_of_their_ids() -> None:
    ids = [ReceiptId(bytes([number]) * 32) for number in range(1, 8)]
    joined = ReceiptIds(b"".join(ids))
    assert (len(joined), list(joined), joined[0], joined[-1]) == (7, ids, ids[0], ids[-1])
    assert joined[2:5] == ids[2:5]
    assert joined == tuple(ids)
    assert joined != tuple(ids[:-1])
    assert [one in joined for one in (ids[3], bytes(32), b"\xff" * 32, ids[3][:31], "no id")] == [
        True,
        *[False] * 4,
    ]
    assert ids[0] not in ReceiptIds(b"")
    for beyond in (7, -8):
        with pytest.raises(IndexError):
            joined[beyond]
