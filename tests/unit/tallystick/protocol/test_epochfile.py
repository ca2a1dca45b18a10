"""An epoch's file: one layout for one content, and nothing else is taken for one."""

from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import vector_samples
from tallystick.protocol.eip712 import receipt_digest, sign_receipt
from tallystick.protocol.epochfile import (
    PAID_BY_TREASURY,
    BadEpochFile,
    ConsentSignature,
    EpochReceipt,
    EpochRows,
    RowKind,
    SetAside,
    decode_epoch,
    encode_epoch,
    page_of,
)
from tallystick.protocol.epochjson import page_to_json, to_json
from tallystick.protocol.hashing import keccak256, keccak256_of
from tallystick.protocol.ids import Address, to_hex
from tallystick.protocol.receipts import Receipt, SignedReceipt
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row
from tests.unit.tallystick.protocol.builders import (
    LEDGER,
    NODE,
    addresses,
    bytes32,
    make_receipt,
    receipts,
    u32,
    u63,
)

u64 = st.integers(0, 2**64 - 1)
charges = st.builds(Row, addresses, u64, st.sampled_from([0, CHARGE_HAS_CONSENT]))
payouts = st.builds(Row, addresses, u64)
consents = st.builds(ConsentSignature, u64, bytes32, bytes32)
aside = st.builds(
    SetAside, st.sampled_from(RowKind), st.builds(Row, addresses, u64, u32), st.text(max_size=30)
)


@st.composite
def epochs(draw: st.DrawFn) -> tuple[EpochRows, list[EpochReceipt]]:
    charged, paid = draw(st.lists(charges, max_size=6)), draw(st.lists(payouts, max_size=6))
    cut, other = draw(st.integers(0, len(charged))), draw(st.integers(0, len(paid)))
    signed = sum(row.flags for row in charged)
    rows = EpochRows(
        chain_id=draw(u63),
        ledger=draw(addresses),
        epoch=draw(u64),
        chunks=((cut, other), (len(charged) - cut, len(paid) - other)),
        charges=tuple(charged),
        consents=tuple(draw(st.lists(consents, min_size=signed, max_size=signed))),
        payouts=tuple(paid),
        set_aside=tuple(draw(st.lists(aside, max_size=3))),
    )
    taken = draw(st.lists(st.tuples(receipts, st.integers(0, 1)), max_size=4, unique_by=lambda pair: pair[0]))
    return rows, in_order(rows, [entry(receipt, flags) for receipt, flags in taken])


def entry(receipt: Receipt, flags: int = 0) -> EpochReceipt:
    return EpochReceipt(SignedReceipt(receipt=receipt, signature=NODE.sign_digest(receipt.nonce)), flags)


def in_order(rows: EpochRows, given_receipts: list[EpochReceipt]) -> list[EpochReceipt]:
    return sorted(given_receipts, key=lambda item: receipt_digest(rows.domain, item.signed.receipt))


def encoded(rows: EpochRows, given_receipts: list[EpochReceipt]) -> bytes:
    return b"".join(encode_epoch(rows, given_receipts, len(given_receipts)))


def make_rows() -> EpochRows:
    return vector_samples.epoch()[0]


@settings(max_examples=200, deadline=None)
@given(epochs())
def test_a_file_comes_back_as_it_was_written_and_only_in_one_layout(
    content: tuple[EpochRows, list[EpochReceipt]],
) -> None:
    rows, given_receipts = content
    data = encoded(rows, given_receipts)
    file = decode_epoch(data)
    assert file.rows == rows
    assert list(file.receipts()) == given_receipts
    assert list(file.receipt_ids) == [
        receipt_digest(rows.domain, item.signed.receipt) for item in given_receipts
    ]
    assert (
        file.hash == keccak256(data) == keccak256_of(encode_epoch(rows, given_receipts, len(given_receipts)))
    )
    assert encoded(file.rows, list(file.receipts())) == data


def test_a_mapped_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    data = encoded(*vector_samples.epoch())
    path = tmp_path / "epoch"
    path.write_bytes(data)
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        found = decode_epoch(mapped)
        assert found == decode_epoch(data)
        assert list(found.receipts()) == list(decode_epoch(data).receipts())
        del found


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_is_the_layout_of_its_content(data: st.DataObject) -> None:
    damaged = bytearray(encoded(*vector_samples.epoch()))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        file = decode_epoch(bytes(damaged))
    except BadEpochFile:
        return
    assert encoded(file.rows, list(file.receipts())) == bytes(damaged)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_no_epoch_file(garbage: bytes) -> None:
    with pytest.raises(BadEpochFile):
        decode_epoch(garbage)
    with pytest.raises(BadEpochFile):
        decode_epoch(encoded(*vector_samples.empty_epoch())[:-8] + garbage[:7])


def test_a_file_cut_anywhere_or_with_anything_behind_it_is_refused() -> None:
    data = encoded(*vector_samples.epoch())
    for length in range(len(data)):
        with pytest.raises(BadEpochFile):
            decode_epoch(data[:length])
    with pytest.raises(BadEpochFile, match="follow"):
        decode_epoch(data + b"\0")


def test_counts_beyond_the_file_are_refused_before_anything_is_allocated() -> None:
    data = bytearray(encoded(*vector_samples.empty_epoch()))
    for at in range(54, len(data), 4):
        huge = bytearray(data)
        huge[at : at + 4] = b"\xff" * 4
        with pytest.raises(BadEpochFile):
            decode_epoch(bytes(huge))


def test_receipts_must_come_sorted_once_each_and_as_many_as_announced() -> None:
    rows, given_receipts = vector_samples.epoch()
    with pytest.raises(BadEpochFile, match="come after"):
        encoded(rows, given_receipts[::-1])
    with pytest.raises(BadEpochFile, match="come after"):
        encoded(rows, [given_receipts[0], given_receipts[0]])
    for announced in (1, 3):
        with pytest.raises(BadEpochFile, match="announced"):
            list(encode_epoch(rows, given_receipts, announced))
    data = encoded(rows, given_receipts)
    size = (len(data) - len(encoded(rows, []))) // 2
    swapped = data[: -2 * size] + data[-size:] + data[-2 * size : -size]
    with pytest.raises(BadEpochFile, match="sorted"):
        decode_epoch(swapped)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunks": ((2, 1),)}, "chunks"),
        ({"consents": ()}, "consents"),
        ({"consents": (ConsentSignature(1, bytes(31), bytes(32)),)}, "32 bytes"),
        ({"consents": (ConsentSignature(-1, bytes(32), bytes(32)),)}, "fit"),
        ({"epoch": 2**64}, "fit"),
        ({"chain_id": -1}, "fit"),
        ({"payouts": (Row(NODE.address, 1, 1), Row(NODE.address, 1))}, "flags"),
        ({"charges": (Row(NODE.address, 1, 1), Row(NODE.address, 1, 2))}, "flags"),
        ({"charges": (Row(NODE.address, 1, 1), Row(NODE.address, 2**64))}, "fit"),
        ({"set_aside": (SetAside(RowKind.PAYOUT, Row(NODE.address, 1), "x" * 2001),)}, "2000"),
        ({"set_aside": (SetAside(RowKind.PAYOUT, Row(NODE.address, 1), "\ud800"),)}, "fit"),
    ],
)
def test_rows_that_do_not_agree_or_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadEpochFile, match=message):
        encoded(replace(make_rows(), **fields), [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "receipt",
    [
        entry(make_receipt(), 256),
        entry(make_receipt(job_id=bytes(31))),
        entry(make_receipt(account=Address("0x12"))),
        EpochReceipt(SignedReceipt(receipt=make_receipt(), signature=bytes(64))),
    ],
)
def test_a_receipt_that_does_not_fit_is_refused(receipt: EpochReceipt) -> None:
    with pytest.raises(BadEpochFile):
        encoded(make_rows(), [receipt])


def test_a_file_of_another_version_is_refused() -> None:
    data = bytearray(encoded(*vector_samples.empty_epoch()))
    assert decode_epoch(bytes(data)).rows.epoch == 8
    data[17] = 2
    with pytest.raises(BadEpochFile, match="version"):
        decode_epoch(bytes(data))


def test_a_reason_that_no_writer_makes_is_refused() -> None:
    row = Row(NODE.address, 1)
    longest = replace(make_rows(), set_aside=(SetAside(RowKind.PAYOUT, row, "x" * 2000),))
    data = encoded(longest, [])
    assert decode_epoch(data).rows == longest
    longer = data[:-2002] + (2001).to_bytes(2, "big") + b"x" * 2001
    not_text = data[:-2002] + (1).to_bytes(2, "big") + b"\xff"
    kind = data[:-2035] + b"\2" + data[-2034:]
    for wrong in (longer, not_text, kind):
        with pytest.raises(BadEpochFile, match=r"reason|kind"):
            decode_epoch(wrong)


def test_unknown_flags_of_a_receipt_are_refused() -> None:
    with pytest.raises(BadEpochFile, match="flags"):
        encoded(make_rows(), [entry(make_receipt(), 2)])
    with pytest.raises(BadEpochFile, match="flags"):
        decode_epoch(encoded(make_rows(), [entry(make_receipt())])[:-1] + b"\2")


def test_the_rendering_says_who_pays_and_pages_through_the_receipts() -> None:
    rows = replace(make_rows(), ledger=LEDGER.contract)
    both = in_order(
        rows,
        [
            EpochReceipt(
                sign_receipt(LEDGER, make_receipt(attempt=attempt), NODE), attempt * PAID_BY_TREASURY
            )
            for attempt in (0, 1)
        ],
    )
    file = decode_epoch(encoded(rows, both))
    whole = to_json(file)
    assert [item["paid_by_treasury"] for item in whole["receipts"]] == [bool(item.flags) for item in both]
    assert [item["id"] for item in whole["receipts"]] == [
        to_hex(receipt_id) for receipt_id in file.receipt_ids
    ]
    assert whole["charges"][1]["consent"]["spent"] == "3000"
    assert "consent" not in whole["charges"][0]
    assert whole["set_aside"][0]["kind"] == "charge"
    assert to_json(file, 1, 1)["receipts"] == whole["receipts"][1:]
    assert to_json(file, 2, 5)["receipts"] == []
    for index in (-1, 2):
        with pytest.raises(IndexError):
            file.receipt(index)


@given(epochs(), st.integers(1, 4))
def test_the_pages_of_a_file_make_the_whole(made: tuple[EpochRows, list[EpochReceipt]], limit: int) -> None:
    rows, taken = made
    data = encoded(rows, taken)
    whole = to_json(decode_epoch(data))
    rows_there = max(2, len(rows.charges), len(rows.payouts), len(rows.set_aside))
    starts = [(at, 0) for at in range(0, rows_there, limit)]
    starts += [(0, at) for at in range(limit, len(taken), limit)]
    pages = [page_to_json(page_of(data, *start, limit), bytes(32)) for start in starts]
    for kind in ("chunks", "charges", "payouts", "set_aside"):
        on_pages = [page[kind] for page, start in zip(pages, starts, strict=True) if start[1] == 0]
        assert [row for some in on_pages for row in some] == whole[kind]
        assert all(len(some) <= limit for some in on_pages)
    listed = [page["receipts"] for page, start in zip(pages, starts, strict=True) if start[0] == 0]
    assert [one for some in listed for one in some] == whole["receipts"]
    assert {(page["charge_count"], page["receipt_count"]) for page in pages} == {
        (len(rows.charges), len(taken))
    }
    for beyond in ((rows_there, 0), (0, max(1, len(taken)))):
        with pytest.raises(IndexError):
            page_of(data, *beyond, limit)
    with pytest.raises(BadEpochFile):
        page_of(data[:-1], 0, 0, limit)
