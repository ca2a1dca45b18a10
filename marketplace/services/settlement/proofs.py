"""Proofs that a receipt is under its epoch's root."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from marketplace.services.settlement.files import EpochFiles
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow
from tallystick.protocol.merkle import Proof, Tree, receipt_tree

TREES_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A receipt's place under the root of a closed epoch."""

    epoch: int
    root: bytes
    proof: Proof


class EpochProofs:
    """Makes proofs for receipts of closed epochs, and keeps the trees of the last few that were asked for."""

    def __init__(self, database: Database, files: EpochFiles | None = None) -> None:
        """`files` are needed for epochs whose receipts were pruned."""
        self._database = database
        self._files = files
        self._trees: OrderedDict[int, Tree] = OrderedDict()

    async def inclusion(self, epoch: int, leaf: int) -> Inclusion | None:
        """Return the proof for the receipt at place `leaf` of an epoch, or None while it is not closed."""
        row = await self._database.read(lambda session: queries.epoch(session, epoch))
        if row is None or row.state != "closed":
            return None
        tree = await self._tree(row)
        return Inclusion(epoch, row.receipts_root, tree.proof(leaf))

    async def _tree(self, row: EpochRow) -> Tree:
        epoch = row.number
        if epoch not in self._trees:
            ids = await self._database.read(lambda session: queries.receipt_ids_of(session, epoch))
            if len(ids) != row.receipt_count and self._files is not None:
                # Some were pruned; the file has them all.
                ids = (await asyncio.to_thread(self._files.load, row.file_hash)).receipt_ids
            self._trees[epoch] = await asyncio.to_thread(receipt_tree, ids)
        self._trees.move_to_end(epoch)
        while len(self._trees) > TREES_KEPT:
            self._trees.popitem(last=False)
        return self._trees[epoch]
