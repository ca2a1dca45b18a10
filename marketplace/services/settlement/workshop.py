"""The long work on an epoch, beside everything else that a coordinator does.

    plant   the tree over receipts in the order of their ids: its root, its crown kept
    file    the epoch's file, under a passing name

A few receipts are a thread's work. Many are for a process of its own (`workbench.py`) of lower priority: a
thread that computes for seconds takes the interpreter from the event loop again and again.

    coordinator ── order, as msgpack ──▶ child: reads the books, writes files
                ◀── what it made ───────
"""

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from marketplace.domain.errors import Broken, Unavailable
from marketplace.services.settlement.files import EpochFiles, Staged, file_pieces
from marketplace.services.settlement.trees import KeptTree
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.settlement import Cut
from marketplace.storage.tables import EpochRow
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.receipt_ids import ReceiptIds

MANY: Final = 20_000
"""Receipts from which on a process is worth its start, about a second."""
_CHILD: Final = "marketplace.services.settlement.workbench"


class Order(msgspec.Struct, frozen=True):
    """What a child is to do: the tree over receipts, or the file of the epoch of that number."""

    books_url: str
    folder: str
    domain: Domain
    what: Cut | int


class Planted(msgspec.Struct, frozen=True):
    """A tree over so many receipts."""

    root: bytes
    count: int


class Filed(msgspec.Struct, frozen=True):
    """An epoch's file under a passing name."""

    path: str
    hash: bytes


def plant(session: Session, files: EpochFiles, cut: Cut) -> Planted:
    """Return the tree over receipts."""
    tree = KeptTree.of(ReceiptIds(b"".join(queries.receipt_ids_of(session, cut))))
    files.keep_tree(tree)
    return Planted(tree.crown.root, tree.crown.count)


def stage_file(session: Session, files: EpochFiles, domain: Domain, epoch: EpochRow) -> Staged:
    """Write an epoch's file under a passing name."""
    return files.stage(file_pieces(session, domain, epoch))


class Workshop:
    """Does the long work where it disturbs least."""

    def __init__(self, database: Database, files: EpochFiles, domain: Domain, *, many: int = MANY) -> None:
        self._database = database
        self._files = files
        self._domain = domain
        self._many = many

    async def plant(self, cut: Cut) -> Planted:
        """Return the tree over receipts. Raises Unavailable."""
        count = await self._database.read(lambda session: queries.count_receipts(session, cut))
        if count < self._many:
            return await self._database.read(lambda session: plant(session, self._files, cut))
        return msgspec.msgpack.decode(await self._order(cut), type=Planted)

    async def publish(self, epoch: EpochRow) -> bytes:
        """Write the epoch's file out of the books and return its hash; the same books give the same file.

        Raises Unavailable.
        """
        if epoch.receipt_count < self._many:
            staged = await self._database.read(
                lambda session: stage_file(session, self._files, self._domain, epoch)
            )
        else:
            filed = msgspec.msgpack.decode(await self._order(epoch.number), type=Filed)
            staged = Staged(Path(filed.path), filed.hash)
        return await asyncio.to_thread(self._files.keep, staged)

    async def _order(self, what: Cut | int) -> bytes:
        """Return a child's answer. Raises Unavailable if it was ended, Broken if it failed."""
        order = Order(self._database.url, str(self._files.folder), self._domain, what)
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", _CHILD, stdin=PIPE, stdout=PIPE)
        try:
            answer, _ = await child.communicate(msgspec.msgpack.encode(order))
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            text = f"the process that works on the epoch ended with {child.returncode}"
            raise Unavailable(text) if child.returncode < 0 else Broken(text)
        return answer
