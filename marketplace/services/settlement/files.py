"""Epoch files on disk, each under the hash of its bytes, and how one is made of the books."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from Crypto.Hash import keccak
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Broken
from marketplace.domain.ports.chain import FaultKind
from marketplace.services.settlement.rows import sent_rows
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.epochfile import (
    MAX_REASON_BYTES,
    PAID_BY_TREASURY,
    BadEpochFile,
    ConsentSignature,
    EpochFile,
    EpochReceipt,
    EpochRows,
    RowKind,
    SetAside,
    decode_epoch,
    encode_epoch,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import to_compact
from tallystick.protocol.receipts import SignedReceipt
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row

RECEIPTS_A_READ: Final = 2_000
_decode = msgspec.msgpack.Decoder(SignedReceipt).decode


class EpochFiles:
    """A folder of epoch files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: EpochFile | None = None

    def path(self, file_hash: bytes) -> Path:
        """Return where the file with this hash is, if it is there."""
        return self._folder / file_hash.hex()

    def has(self, file_hash: bytes) -> bool:
        """Return whether the file is there."""
        return self.path(file_hash).is_file()

    def load(self, file_hash: bytes) -> EpochFile:
        """Return what a file says. Raises Broken if it is not there or damaged."""
        if self._loaded is not None and self._loaded.hash == file_hash:
            return self._loaded
        try:
            loaded = decode_epoch(self.path(file_hash).read_bytes())
            if loaded.hash != file_hash:
                raise BadEpochFile("its hash is another one")
        except (OSError, BadEpochFile) as error:
            path = self.path(file_hash)
            raise Broken(f"the epoch file {path} is needed and cannot be used: {error}") from error
        # Who asks for one receipt of an old epoch often asks for the next.
        self._loaded = loaded
        return loaded

    def write(self, pieces: Iterable[bytes]) -> bytes:
        """Store a file, durably and whole or not at all; return its hash."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f"{os.getpid()}.new"
        digest = keccak.new(digest_bits=256)
        with fresh.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        file_hash = digest.digest()
        reach("settlement.file_staged")
        fresh.replace(self.path(file_hash))
        self._sync_folder()
        return file_hash

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def publish(database: Database, files: EpochFiles, domain: Domain, epoch: EpochRow) -> bytes:
    """Write the epoch's file out of the books and return its hash; the same books give the same file."""

    def work(session: Session) -> bytes:
        rows = file_rows(domain, epoch, queries.rows_of(session, epoch.number))
        return files.write(encode_epoch(rows, _receipts(session, epoch.number), epoch.receipt_count))

    return await database.read(work)


async def read_file(files: EpochFiles, file_hash: bytes) -> bytes:
    """Return a file's bytes. Raises FileNotFoundError."""
    return await asyncio.to_thread(files.path(file_hash).read_bytes)


def file_rows(domain: Domain, epoch: EpochRow, rows: Sequence[SettlementRow]) -> EpochRows:
    """Return what the file says about rows."""
    sent = sorted(sent_rows(rows), key=lambda row: (row.chunk, row.position))
    charges = [row for row in sent if row.kind == FaultKind.CHARGE]
    payouts = [row for row in sent if row.kind == FaultKind.PAYOUT]
    aside = sorted(
        (row for row in rows if row.set_aside is not None), key=lambda row: (row.kind, row.address)
    )
    return EpochRows(
        chain_id=domain.chain_id,
        ledger=domain.contract,
        epoch=epoch.number,
        chunks=tuple(
            (sum(row.chunk == chunk for row in charges), sum(row.chunk == chunk for row in payouts))
            for chunk in range(epoch.chunks)
        ),
        charges=tuple(_row(row) for row in charges),
        consents=tuple(_consents(charges)),
        payouts=tuple(_row(row) for row in payouts),
        set_aside=tuple(_set_aside(row) for row in aside),
    )


def _row(row: SettlementRow) -> Row:
    flags = CHARGE_HAS_CONSENT if row.consent_signature is not None else 0
    return Row(Address(row.address), row.amount, flags)


def _consents(charges: Sequence[SettlementRow]) -> Iterator[ConsentSignature]:
    for row in charges:
        if row.consent_spent is not None and row.consent_signature is not None:
            yield ConsentSignature(row.consent_spent, *to_compact(row.consent_signature))


def _set_aside(row: SettlementRow) -> SetAside:
    kind = RowKind.CHARGE if row.kind == FaultKind.CHARGE else RowKind.PAYOUT
    reason = (row.set_aside or "").encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    return SetAside(kind, Row(Address(row.address), row.amount), reason)


def _receipts(session: Session, number: int) -> Iterator[EpochReceipt]:
    first = 0
    while page := queries.receipts_of(session, number, first, RECEIPTS_A_READ):
        for body, payer_id in page:
            yield EpochReceipt(_decode(body), PAID_BY_TREASURY if payer_id == TREASURY_ID else 0)
        first += len(page)
