"""Proofs that a receipt is under its epoch's root."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.services.settlement.files import EpochFiles
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow
from tallystick.protocol.merkle import Crown, Proof, receipt_crown

CROWNS_KEPT: Final = 64
"""Each is a thousandth of its tree: 64 kB for a million receipts."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A receipt's place under the root of a closed epoch."""

    epoch: int
    root: bytes
    proof: Proof


class EpochProofs:
    """Makes proofs for receipts of closed epochs out of the tree's crown and the ids of one block."""

    def __init__(self, database: Database, files: EpochFiles | None = None) -> None:
        """`files` keep the crowns, and are needed for epochs whose receipts were pruned."""
        self._database = database
        self._files = files
        self._crowns: OrderedDict[int, Crown] = OrderedDict()

    async def inclusion(self, epoch: int, leaf: int) -> Inclusion | None:
        """Return the proof for the receipt at place `leaf` of an epoch, or None while it is not closed."""
        row = await self._database.read(lambda session: queries.epoch(session, epoch))
        if row is None or row.state != "closed":
            return None
        crown = await self._crown(row)
        ids = await self._ids(row, crown.block(leaf))
        return Inclusion(epoch, row.receipts_root, crown.proof(leaf, ids))

    async def _crown(self, row: EpochRow) -> Crown:
        crown = self._crowns.get(row.number)
        if crown is None and self._files is not None:
            crown = await asyncio.to_thread(self._files.crown, row.receipts_root)
        if crown is None:
            ids = await self._ids(row, range(row.receipt_count))
            crown = await asyncio.to_thread(receipt_crown, ids, row.receipt_count)
            if self._files is not None:
                await asyncio.to_thread(self._files.keep_crown, crown)
        self._crowns[row.number] = crown
        self._crowns.move_to_end(row.number)
        while len(self._crowns) > CROWNS_KEPT:
            self._crowns.popitem(last=False)
        return crown

    async def _ids(self, row: EpochRow, places: range) -> Sequence[bytes]:
        number = row.number
        ids = await self._database.read(lambda session: queries.receipt_ids_between(session, number, places))
        if len(ids) == len(places) or self._files is None:
            return ids
        # Some were pruned; the file has them all.
        found = await asyncio.to_thread(self._files.receipts, row.file_hash, places)
        return [receipt_id for receipt_id, _ in found]
