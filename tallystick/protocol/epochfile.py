"""An epoch's file: what was settled, and the receipts behind it, in one canonical binary layout.

    header       magic "tallystick/epoch", version (2 bytes), chain id (8), ledger (20), epoch (8),
                 how many chunks, charges, consents, payouts, set-aside rows (4 each), receipts (8)
    chunks       how many charges and payouts each chunk has (4 + 4), in the order of settlement
    charges      32-byte rows, in the order of settlement
    consents     spent (8), r (32), vs (32) for each charge that has the flag, in its order
    payouts      32-byte rows, in the order of settlement
    set aside    kind (1: 0 charge, 1 payout), row (32), length of the reason (2), reason in UTF-8
    receipts     fixed records, strictly rising by receipt id: the fields of the EIP-712 struct in its order,
                 each in its own size, then the node's signature (65), then flags (1)

Numbers are big endian. Nothing follows the last receipt. The Ledger's `EpochClosed` names keccak256 of
the whole, so the same settlement must give the same bytes, and whoever holds the file can check every
row and receipt.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from mmap import mmap
from struct import Struct, error
from typing import Final

from msgspec.structs import astuple

from tallystick.protocol.eip712 import BadField, Domain, receipt_digest, receipt_digest_of
from tallystick.protocol.hashing import keccak256_of
from tallystick.protocol.ids import Address, ReceiptId, address_bytes, to_hex
from tallystick.protocol.receipt_ids import ReceiptIds
from tallystick.protocol.receipts import Receipt, SignedReceipt
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, BadRow, Row, pack_row, unpack_row

MAGIC: Final = b"tallystick/epoch"
VERSION: Final = 1
PAID_BY_TREASURY: Final = 1
"""Flag of a receipt that its account does not pay for: the answer it is a part of failed."""
MAX_REASON_BYTES: Final = 2000
_HASHED_AT_ONCE: Final = 1 << 20

_HEADER: Final = Struct(">16sHQ20sQIIIIIQ")
_CHUNK: Final = Struct(">II")
_ROW_BYTES: Final = 32
_CONSENT: Final = Struct(">Q32s32s")
_SET_ASIDE: Final = Struct(">B32sH")
_RECEIPT: Final = Struct(">32sI32s20s20s32s32s32s32s32sIIIBI32s32sQQHQQQ32s65sB")

RECEIPT_BYTES: Final = _RECEIPT.size
"""What a receipt takes in a file."""


class BadEpochFile(ValueError):
    """Bytes that are no epoch file, or contents that one cannot hold."""


class RowKind(IntEnum):
    """Whether a row charges an account or pays it."""

    CHARGE = 0
    PAYOUT = 1


@dataclass(frozen=True, slots=True)
class ConsentSignature:
    """A consumer's signature under having spent `spent` so far, in the compact form (EIP-2098)."""

    spent: int
    r: bytes
    vs: bytes


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row that was due and not sent, since the Ledger would have refused it, and why."""

    kind: RowKind
    row: Row
    reason: str


@dataclass(frozen=True, slots=True)
class EpochReceipt:
    """A receipt of an epoch."""

    signed: SignedReceipt
    flags: int = 0


@dataclass(frozen=True, slots=True)
class EpochRows:
    """What an epoch settles. `chunks` has the numbers of charges and payouts of each transaction."""

    chain_id: int
    ledger: Address
    epoch: int
    chunks: tuple[tuple[int, int], ...] = ()
    charges: tuple[Row, ...] = ()
    consents: tuple[ConsentSignature, ...] = ()
    payouts: tuple[Row, ...] = ()
    set_aside: tuple[SetAside, ...] = ()

    @property
    def domain(self) -> Domain:
        """The domain of the epoch's receipts."""
        return Domain(self.chain_id, self.ledger)


@dataclass(frozen=True, slots=True)
class EpochCounts:
    """How many of each a file has, in the order of its header."""

    chunks: int
    charges: int
    consents: int
    payouts: int
    set_aside: int
    receipts: int


@dataclass(frozen=True, slots=True)
class EpochPage:
    """A part of a file; `rows` has only the page's."""

    rows: EpochRows
    counts: EpochCounts
    receipts: tuple[EpochReceipt, ...]


@dataclass(frozen=True, slots=True)
class EpochFile:
    """A decoded file; receipts are read from its bytes when they are asked for."""

    rows: EpochRows
    receipt_ids: ReceiptIds
    hash: bytes
    _records: memoryview = field(repr=False)

    def receipt(self, index: int) -> EpochReceipt:
        """Return the receipt at `index` of the file, which is its place in the tree. Raises IndexError."""
        if not 0 <= index < len(self.receipt_ids):
            raise IndexError(f"receipt {index} of {len(self.receipt_ids)}")
        return _read_receipt(self._records, index)

    def receipts(self) -> Iterator[EpochReceipt]:
        """Return all receipts in order."""
        return (_read_receipt(self._records, index) for index in range(len(self.receipt_ids)))


def encode_epoch(rows: EpochRows, receipts: Iterable[EpochReceipt], receipt_count: int) -> Iterator[bytes]:
    """Return the file in pieces; `receipts` come sorted by id, and are not held.

    Raises BadEpochFile, possibly after some pieces, if rows and chunks or flags and consents do not agree, if
    the receipts are unsorted or not `receipt_count`, or if a field does not fit.
    """
    _check(rows)
    try:
        yield _encode_rows(rows, receipt_count)
        domain, last, count = rows.domain, b"", 0
        for receipt in receipts:
            receipt_id = receipt_digest(domain, receipt.signed.receipt)
            if receipt_id <= last:
                raise BadEpochFile(f"receipt {to_hex(receipt_id)} does not come after {to_hex(last)}")
            last, count = receipt_id, count + 1
            yield _pack_receipt(receipt)
    except (error, BadField, BadRow, UnicodeEncodeError) as reason:
        raise BadEpochFile(f"a field does not fit: {reason}") from reason
    if count != receipt_count:
        raise BadEpochFile(f"{count} receipts came where {receipt_count} were announced")


def decode_epoch(data: bytes | mmap) -> EpochFile:
    """Return what is in a file, once its sizes, its order and the ids of its receipts are right.

    `data` may be a mapped file. Raises BadEpochFile. It does not check signatures, nor the rows against the
    receipts.
    """
    reader = _Reader(data)
    rows, receipts = _read_rows(reader)
    records = reader.take(receipts * _RECEIPT.size)
    reader.end()
    return EpochFile(rows, _receipt_ids(rows.domain, records), epoch_hash(data), records)


def epoch_hash(data: bytes | mmap) -> bytes:
    """Return the hash of a file, which may be mapped."""
    whole = memoryview(data)
    return keccak256_of(whole[at : at + _HASHED_AT_ONCE] for at in range(0, len(whole), _HASHED_AT_ONCE))


def find_receipt(data: bytes | mmap, receipt_id: bytes) -> EpochReceipt:
    """Return the receipt with an id, reading only the file's rows and a few receipts.

    Raises BadEpochFile, also if the file has no such receipt.
    """
    reader = _Reader(data)
    rows, count = _read_rows(reader)
    records = reader.take(count * _RECEIPT.size)
    reader.end()

    def id_at(place: int) -> ReceiptId:
        return receipt_digest(rows.domain, _read_receipt(records, place).signed.receipt)

    place = bisect_left(range(count), receipt_id, key=id_at)
    if place == count or id_at(place) != receipt_id:
        raise BadEpochFile(f"the file has no receipt {to_hex(receipt_id)}")
    return _read_receipt(records, place)


def receipts_between(data: bytes | mmap, places: range) -> list[tuple[ReceiptId, EpochReceipt]]:
    """Return the receipts at consecutive places of a file with their ids, reading only its rows and them.

    Raises BadEpochFile, also if the file has no such places.
    """
    reader = _Reader(data)
    rows, count = _read_rows(reader)
    records = reader.take(count * _RECEIPT.size)
    reader.end()
    if not 0 <= places.start <= places.stop <= count:
        raise BadEpochFile(f"the file has {count} receipts, none from {places.start} to {places.stop}")
    found = [_read_receipt(records, index) for index in places]
    return [(receipt_digest(rows.domain, one.signed.receipt), one) for one in found]


def page_of(data: bytes | mmap, first_row: int, first_receipt: int, limit: int) -> EpochPage:
    """Return up to `limit` of each kind of row from `first_row` on, and of receipts from `first_receipt` on.

    `data` may be a mapped file. Of what lies outside of the page no more is read than its sizes, and it is
    not checked. Raises IndexError if no list reaches that far, BadEpochFile for what is no epoch file.
    """
    reader = _Reader(data)
    chain_id, ledger, epoch, counts = _read_header(reader)
    most = max(counts.chunks, counts.charges, counts.payouts, counts.set_aside)
    if first_row >= max(1, most) or first_receipt >= max(1, counts.receipts):
        raise IndexError(f"the file has up to {most} rows of a kind, and {counts.receipts} receipts")
    part = slice(first_row, first_row + limit)
    chunks, charges = reader.take(counts.chunks * _CHUNK.size), reader.take(counts.charges * _ROW_BYTES)
    consents, payouts = reader.take(counts.consents * _CONSENT.size), reader.take(counts.payouts * _ROW_BYTES)
    charged = _rows(_records(charges, _ROW_BYTES, part))
    # A charge's consent is found by how many before it bring one: flags end in the last byte of a row.
    before = bytes(charges[: first_row * _ROW_BYTES][_ROW_BYTES - 1 :: _ROW_BYTES]).count(CHARGE_HAS_CONSENT)
    given = slice(before, before + sum(row.flags == CHARGE_HAS_CONSENT for row in charged))
    rows = EpochRows(
        chain_id=chain_id,
        ledger=ledger,
        epoch=epoch,
        chunks=tuple(_CHUNK.iter_unpack(_records(chunks, _CHUNK.size, part))),
        charges=charged,
        consents=_consents(_records(consents, _CONSENT.size, given)),
        payouts=_rows(_records(payouts, _ROW_BYTES, part)),
        set_aside=reader.set_aside(counts.set_aside, part),
    )
    records = reader.take(counts.receipts * _RECEIPT.size)
    reader.end()
    if given.stop > counts.consents:
        raise BadEpochFile(f"{counts.consents} consents do not match the flags of the charges")
    places = range(first_receipt, min(first_receipt + limit, counts.receipts))
    return EpochPage(rows, counts, tuple(_read_receipt(records, place) for place in places))


def _read_header(reader: "_Reader") -> tuple[int, Address, int, EpochCounts]:
    magic, version, chain_id, ledger, epoch, *counts = _HEADER.unpack(reader.take(_HEADER.size))
    if magic != MAGIC or version != VERSION:
        raise BadEpochFile(f"not an epoch file of version {VERSION}")
    return chain_id, _address(ledger), epoch, EpochCounts(*counts)


def _read_rows(reader: "_Reader") -> tuple[EpochRows, int]:
    """Return what comes before the receipts, and how many of them follow."""
    chain_id, ledger, epoch, counts = _read_header(reader)
    rows = EpochRows(
        chain_id=chain_id,
        ledger=ledger,
        epoch=epoch,
        chunks=tuple(_CHUNK.iter_unpack(reader.take(counts.chunks * _CHUNK.size))),
        charges=_rows(reader.take(counts.charges * _ROW_BYTES)),
        consents=_consents(reader.take(counts.consents * _CONSENT.size)),
        payouts=_rows(reader.take(counts.payouts * _ROW_BYTES)),
        set_aside=reader.set_aside(counts.set_aside, slice(0, counts.set_aside)),
    )
    _check(rows)
    return rows, counts.receipts


def _encode_rows(rows: EpochRows, receipt_count: int) -> bytes:
    counts = map(len, (rows.chunks, rows.charges, rows.consents, rows.payouts, rows.set_aside))
    ledger = address_bytes(rows.ledger)
    return b"".join(
        [
            _HEADER.pack(MAGIC, VERSION, rows.chain_id, ledger, rows.epoch, *counts, receipt_count),
            *(_CHUNK.pack(*chunk) for chunk in rows.chunks),
            *(pack_row(row) for row in rows.charges),
            *(_CONSENT.pack(consent.spent, consent.r, consent.vs) for consent in rows.consents),
            *(pack_row(row) for row in rows.payouts),
            *(_pack_set_aside(item) for item in rows.set_aside),
        ]
    )


def _pack_set_aside(item: SetAside) -> bytes:
    reason = item.reason.encode()
    if len(reason) > MAX_REASON_BYTES:
        raise BadEpochFile(f"a reason of {len(reason)} bytes exceeds {MAX_REASON_BYTES}")
    return _SET_ASIDE.pack(item.kind, pack_row(item.row), len(reason)) + reason


def _pack_receipt(receipt: EpochReceipt) -> bytes:
    fields = [
        address_bytes(value) if isinstance(value, str) else value for value in astuple(receipt.signed.receipt)
    ]
    if len(receipt.signed.signature) != 65:
        raise BadEpochFile(f"a signature of {len(receipt.signed.signature)} bytes")
    if receipt.flags & ~PAID_BY_TREASURY:
        raise BadEpochFile(f"a receipt has unknown flags {receipt.flags}")
    return _RECEIPT.pack(*fields, receipt.signed.signature, receipt.flags)


def _read_receipt(records: memoryview, index: int) -> EpochReceipt:
    *values, signature, flags = _RECEIPT.unpack_from(records, index * _RECEIPT.size)
    fields = dict(zip(Receipt.__struct_fields__, values, strict=True))
    fields["account"], fields["node"] = _address(fields["account"]), _address(fields["node"])
    return EpochReceipt(SignedReceipt(receipt=Receipt(**fields), signature=signature), flags)


def _receipt_ids(domain: Domain, records: memoryview) -> ReceiptIds:
    ids = bytearray()
    last = b""
    for index, (*fields, _, flags) in enumerate(_RECEIPT.iter_unpack(records)):
        receipt_id = receipt_digest_of(domain, fields)
        if receipt_id <= last:
            raise BadEpochFile(f"receipt {index} is not sorted by its id")
        if flags & ~PAID_BY_TREASURY:
            raise BadEpochFile(f"receipt {index} has unknown flags {flags}")
        ids += receipt_id
        last = receipt_id
    return ReceiptIds(bytes(ids))


def _check(rows: EpochRows) -> None:
    """Raise BadEpochFile unless chunks, rows, flags and consents agree."""
    sums = (sum(charges for charges, _ in rows.chunks), sum(payouts for _, payouts in rows.chunks))
    if sums != (len(rows.charges), len(rows.payouts)):
        raise BadEpochFile(f"the chunks have {sums} rows, the file {len(rows.charges), len(rows.payouts)}")
    if sum(row.flags == CHARGE_HAS_CONSENT for row in rows.charges) != len(rows.consents):
        raise BadEpochFile(f"{len(rows.consents)} consents do not match the flags of the charges")
    if any(row.flags not in (0, CHARGE_HAS_CONSENT) for row in rows.charges) or any(
        row.flags for row in rows.payouts
    ):
        raise BadEpochFile("a row has unknown flags")
    if any(len(consent.r) != 32 or len(consent.vs) != 32 for consent in rows.consents):
        raise BadEpochFile("a consent's r and vs have 32 bytes each")


def _address(raw: bytes) -> Address:
    return Address("0x" + raw.hex())


def _records(records: memoryview, size: int, wanted: slice) -> memoryview:
    """Return the `wanted` ones of records of `size` bytes."""
    return records[wanted.start * size : wanted.stop * size]


def _rows(records: memoryview) -> tuple[Row, ...]:
    words = records.tobytes()
    return tuple(unpack_row(words[at : at + _ROW_BYTES]) for at in range(0, len(words), _ROW_BYTES))


def _consents(records: memoryview) -> tuple[ConsentSignature, ...]:
    return tuple(ConsentSignature(*consent) for consent in _CONSENT.iter_unpack(records))


def _reason(said: memoryview) -> str:
    try:
        return said.tobytes().decode()
    except UnicodeDecodeError as fault:
        raise BadEpochFile("a reason is not UTF-8") from fault


class _Reader:
    """Takes pieces of a file from its front, never past its end."""

    def __init__(self, data: bytes | mmap) -> None:
        self._rest = memoryview(data)

    def take(self, size: int) -> memoryview:
        if size > len(self._rest):
            raise BadEpochFile(f"the file ends {size - len(self._rest)} bytes too early")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def set_aside(self, count: int, wanted: slice) -> tuple[SetAside, ...]:
        """Take `count` set-aside rows, and return the `wanted` ones of them."""
        found = []
        for index in range(count):
            kind, word, length = _SET_ASIDE.unpack(self.take(_SET_ASIDE.size))
            if kind not in (RowKind.CHARGE, RowKind.PAYOUT) or length > MAX_REASON_BYTES:
                raise BadEpochFile(f"a set-aside row of kind {kind} with a reason of {length} bytes")
            said = self.take(length)
            if wanted.start <= index < wanted.stop:
                found.append(SetAside(RowKind(kind), unpack_row(word), _reason(said)))
        return tuple(found)

    def end(self) -> None:
        if self._rest:
            raise BadEpochFile(f"{len(self._rest)} bytes follow the last receipt")
