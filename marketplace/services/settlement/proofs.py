"""Proofs that a receipt is under its epoch's root."""

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from marketplace.domain.errors import Broken
from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.trees import KeptTree
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow
from tallystick.protocol.ids import to_hex
from tallystick.protocol.merkle import Proof
from tallystick.protocol.receipt_ids import ReceiptIds

TREES_KEPT: Final = 64
"""Each is a thousandth of the whole: 100 kB for a million receipts."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A receipt's place under the root of a closed epoch."""

    epoch: int
    root: bytes
    proof: Proof


class EpochProofs:
    """Makes proofs for receipts of closed epochs out of what is kept of the tree and the ids of one block."""

    def __init__(self, database: Database, files: EpochFiles | None = None) -> None:
        """`files` keep the trees, and are needed for epochs whose receipts were pruned."""
        self._database = database
        self._files = files
        self._trees: OrderedDict[int, KeptTree] = OrderedDict()

    async def inclusion(self, epoch: int, receipt_id: bytes) -> Inclusion | None:
        """Return the proof for one of an epoch's receipts, or None while it is not closed.

        Raises Broken for a receipt that is not the epoch's.
        """
        row = await self._database.read(lambda session: queries.epoch(session, epoch))
        if row is None or row.state != "closed":
            return None
        tree = await self._tree(row)
        places = tree.block_of(receipt_id)
        ids = await self._ids(row, tree, places)
        at = bisect_left(ids, receipt_id)
        if ids[at : at + 1] != [receipt_id]:
            raise Broken(f"receipt {to_hex(receipt_id)} is not under the root of epoch {epoch}")
        return Inclusion(epoch, row.receipts_root, tree.crown.proof(places.start + at, ids))

    async def _tree(self, row: EpochRow) -> KeptTree:
        tree = self._trees.get(row.number)
        if tree is None and self._files is not None:
            tree = await asyncio.to_thread(self._files.tree, row.receipts_root)
        if tree is None:
            ids = await self._all_ids(row)
            tree = await asyncio.to_thread(KeptTree.of, ids)
            if self._files is not None:
                await asyncio.to_thread(self._files.keep_tree, tree)
        self._trees[row.number] = tree
        self._trees.move_to_end(row.number)
        while len(self._trees) > TREES_KEPT:
            self._trees.popitem(last=False)
        return tree

    async def _ids(self, row: EpochRow, tree: KeptTree, places: range) -> list[bytes]:
        first, end = tree.bounds(places)
        ids = await self._database.read(
            lambda session: queries.receipt_ids_between(session, queries.cut_of(session, row), first, end)
        )
        if len(ids) == len(places) or self._files is None:
            return list(ids)
        # Some were pruned; the file has them all.
        return list(await asyncio.to_thread(self._files.receipt_ids, row.file_hash, places))

    async def _all_ids(self, row: EpochRow) -> ReceiptIds:
        ids = await self._database.read(lambda session: _joined_ids(session, row))
        if len(ids) == row.receipt_count or self._files is None:
            return ids
        return (await asyncio.to_thread(self._files.load, row.file_hash)).receipt_ids


def _joined_ids(session: Session, row: EpochRow) -> ReceiptIds:
    return ReceiptIds(b"".join(queries.receipt_ids_of(session, queries.cut_of(session, row))))
