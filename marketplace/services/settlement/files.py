"""Epoch files on disk, each under the hash of its bytes, and how one is made of the books."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Broken
from marketplace.domain.ports.chain import FaultKind
from marketplace.services.settlement.rows import sent_rows
from marketplace.services.settlement.trees import KeptTree
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
    find_receipt,
    receipts_between,
)
from tallystick.protocol.hashing import new_keccak256
from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.keys import to_compact
from tallystick.protocol.receipts import SignedReceipt
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row

PIECES_AT_ONCE: Final = 500
_decode_tree = msgspec.msgpack.Decoder(KeptTree).decode
_decode = msgspec.msgpack.Decoder(SignedReceipt).decode


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that is written whole, under a passing name, and the hash of its bytes."""

    path: Path
    hash: bytes


class EpochFiles:
    """A folder of epoch files, and of what is kept of their trees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: EpochFile | None = None

    def path(self, file_hash: bytes) -> Path:
        """Return where the file with this hash is, if it is there."""
        return self.folder / file_hash.hex()

    def has(self, file_hash: bytes) -> bool:
        """Return whether the file is there."""
        return self.path(file_hash).is_file()

    def load(self, file_hash: bytes) -> EpochFile:
        """Return what a file says. Raises Broken if it is not there or damaged."""
        if self._loaded is not None and self._loaded.hash == file_hash:
            return self._loaded
        path = self.path(file_hash)
        try:
            loaded = decode_epoch(_mapped(path))
            if loaded.hash != file_hash:
                raise BadEpochFile("its hash is another one")
        except (OSError, ValueError) as error:
            raise Broken(f"the epoch file {path} is needed and cannot be used: {error}") from error
        # Who asks for one receipt of an old epoch often asks for the next.
        self._loaded = loaded
        return loaded

    def receipt(self, file_hash: bytes, receipt_id: bytes) -> EpochReceipt:
        """Return the receipt with an id, reading little more of the file than it.

        The file's hash is not checked: ids are made of the receipts. Raises Broken if the file is not there
        or has no such receipt.
        """
        path = self.path(file_hash)
        try:
            return find_receipt(_mapped(path), receipt_id)
        except (OSError, ValueError) as error:
            raise Broken(f"the epoch file {path} is needed and cannot be used: {error}") from error

    def receipt_ids(self, file_hash: bytes, places: range) -> list[ReceiptId]:
        """Return the ids at consecutive places, reading no more of the file than those receipts.

        The file's hash is not checked: the caller knows the root. Raises Broken if the file is not there or
        has no such places.
        """
        path = self.path(file_hash)
        try:
            return [receipt_id for receipt_id, _ in receipts_between(_mapped(path), places)]
        except (OSError, ValueError) as error:
            raise Broken(f"the epoch file {path} is needed and cannot be used: {error}") from error

    def write(self, pieces: Iterable[bytes]) -> bytes:
        """Store a file, durably and whole or not at all; return its hash."""
        return self.keep(self.stage(pieces))

    def stage(self, pieces: Iterable[bytes]) -> Staged:
        """Write a file under a passing name, durably; `keep` gives it its own. What fails leaves nothing."""
        staged, digest = self.passing("epoch"), new_keccak256(b"")
        source = iter(pieces)
        try:
            with staged.open("wb") as file:
                while some := b"".join(islice(source, PIECES_AT_ONCE)):
                    digest.update(some)
                    file.write(some)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return Staged(staged, digest.digest())

    def keep(self, staged: Staged) -> bytes:
        """Put a staged file where it is looked for; return its hash."""
        reach("settlement.file_staged")
        staged.path.replace(self.path(staged.hash))
        self._sync_folder()
        return staged.hash

    def passing(self, what: str) -> Path:
        """Return the name of a file of this process that will not stay."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{what}-{os.getpid()}.new"

    def tree(self, root: bytes) -> KeptTree | None:
        """Return what was kept of the tree with this root, if it was."""
        try:
            tree = _decode_tree((self.folder / f"{root.hex()}.crown").read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return tree if tree.crown.root == root else None

    def keep_tree(self, tree: KeptTree) -> None:
        """Keep a tree's crown; without it, it is made anew from all of the tree's receipts."""
        path = self.passing("crown")
        path.write_bytes(msgspec.msgpack.encode(tree))
        path.replace(self.folder / f"{tree.crown.root.hex()}.crown")

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mapped(path: Path) -> mmap:
    """Return a file's content without reading it. Raises OSError, ValueError for an empty one."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def file_pieces(session: Session, domain: Domain, epoch: EpochRow) -> Iterator[bytes]:
    """Give an epoch's file out of the books; the same books give the same file."""
    rows = file_rows(domain, epoch, queries.rows_of(session, epoch.number))
    return encode_epoch(rows, stored_receipts(session, epoch), epoch.receipt_count)


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


def stored_receipts(session: Session, epoch: EpochRow) -> Iterator[EpochReceipt]:
    """Yield an epoch's receipts in the order of their places; they are not held."""
    for body, payer_id in queries.receipts_of(session, queries.cut_of(session, epoch)):
        yield EpochReceipt(_decode(body), PAID_BY_TREASURY if payer_id == TREASURY_ID else 0)
