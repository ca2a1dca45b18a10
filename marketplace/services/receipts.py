"""Receipts for those who ask: the signed thing, where it stands, and the proof that it was settled."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import NotFound
from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.proofs import EpochProofs, Inclusion
from marketplace.storage.database import Database
from marketplace.storage.queries import pruning, published, receipts
from marketplace.storage.tables import EpochRow, ReceiptRow
from tallystick.protocol.epochfile import PAID_BY_TREASURY, EpochReceipt
from tallystick.protocol.receipts import SignedReceipt, receipt_charge, receipt_fee_up

CLOSED: Final = "closed"


@dataclass(frozen=True, slots=True)
class ReceiptView:
    """A receipt that was taken. Amounts in nano-dollars; `status` is taken, matured or settled.

    Of one that was pruned the file has no more than everybody may know: `account_id` is who paid on the
    chain, and the signature `Taken`, a promise that settling it has kept, is empty.
    """

    id: bytes
    account_id: str
    signed: SignedReceipt
    charge: int
    fee: int
    paid_by_consumer: bool
    status: str
    taken_epoch: int
    taken_signature: bytes
    taken_at: int
    epoch: int | None


class ReceiptBook:
    """Finds receipts, and proves their place."""

    def __init__(self, database: Database, proofs: EpochProofs, files: EpochFiles) -> None:
        self._database = database
        self._proofs = proofs
        self._files = files

    async def find(self, receipt_id: bytes) -> ReceiptView:
        """Return a receipt. Raises NotFound."""
        found = await self._database.read(lambda session: _find(session, receipt_id))
        if found is None:
            found = await self._pruned(receipt_id)
        if found is None:
            raise NotFound(f"There is no receipt 0x{receipt_id.hex()}.")
        return found

    async def _pruned(self, receipt_id: bytes) -> ReceiptView | None:
        """Return a receipt that the books have no more, out of its epoch's file."""
        epoch = await self._database.read(lambda session: _epoch_of_pruned(session, receipt_id))
        if epoch is None:
            return None
        kept = await asyncio.to_thread(self._files.receipt, epoch.file_hash, receipt_id)
        return _from_file(receipt_id, kept, epoch.number)

    async def of_account(self, account_id: str, *, after: bytes | None, limit: int) -> Sequence[ReceiptView]:
        """Return up to `limit` receipts that an account pays for, the oldest first."""
        return await self._database.read(
            lambda session: [
                _view(session, row)
                for row in receipts.of_account(session, account_id, after=after, limit=limit)
            ]
        )

    async def inclusion(self, receipt: ReceiptView) -> Inclusion | None:
        """Return the proof that a receipt is under its epoch's root; None before the epoch is closed."""
        if receipt.epoch is None:
            return None
        return await self._proofs.inclusion(receipt.epoch, receipt.id)


def _epoch_of_pruned(session: Session, receipt_id: bytes) -> EpochRow | None:
    number = pruning.epoch_of_pruned(session, receipt_id)
    return None if number is None else published.find_epoch(session, number)


def _from_file(receipt_id: bytes, kept: EpochReceipt, epoch: int) -> ReceiptView:
    receipt = kept.signed.receipt
    paid_by_treasury = bool(kept.flags & PAID_BY_TREASURY)
    return ReceiptView(
        id=receipt_id,
        account_id=TREASURY_ID if paid_by_treasury else receipt.account,
        signed=kept.signed,
        charge=receipt_charge(receipt),
        fee=receipt_fee_up(receipt),
        paid_by_consumer=not paid_by_treasury,
        status="settled",
        taken_epoch=epoch,
        taken_signature=b"",
        taken_at=receipt.finished_at,
        epoch=epoch,
    )


def _find(session: Session, receipt_id: bytes) -> ReceiptView | None:
    row = receipts.find(session, receipt_id)
    return None if row is None else _view(session, row)


def _view(session: Session, row: ReceiptRow) -> ReceiptView:
    epoch = None if row.batch is None else published.epoch_of_batch(session, row.batch)
    settled = epoch is not None and epoch.state == CLOSED
    return ReceiptView(
        id=row.id,
        account_id=row.account_id,
        signed=msgspec.msgpack.decode(row.body, type=SignedReceipt),
        charge=row.charge,
        fee=row.fee,
        paid_by_consumer=row.payer_id == row.account_id,
        status="settled" if settled else "matured" if row.matured else "taken",
        taken_epoch=row.taken_epoch,
        taken_signature=row.taken_signature,
        taken_at=row.taken_at,
        epoch=None if epoch is None else epoch.number,
    )
