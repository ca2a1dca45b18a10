"""Settled receipts leave the books; their epochs' files keep them, and prove them as before.

An epoch's file has every receipt and every row, and its hash is on the chain. So once an epoch is closed
and its file is here and whole, the books need no more of a receipt than which epoch it was, and of all
together their sums. A receipt whose file is missing or damaged stays.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from marketplace.domain.errors import Broken
from marketplace.services.settlement.files import EpochFiles
from marketplace.storage.database import Database
from marketplace.storage.queries import pruning as queries
from marketplace.storage.tables import EpochRow
from tallystick.protocol.merkle import receipt_tree

LEFTOVER_MS: Final = 600_000
"""A file that is being written changes more often than that, also by a process that is not seen from here."""
JOBS_A_WRITE: Final = 200
"""So many at a time, so that the holds of the present do not wait."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What has left the books, out of how many epochs; and the epochs whose receipts must stay, with why."""

    receipts: int
    jobs: int
    epochs: int
    kept: tuple[tuple[int, str], ...]


async def prune(database: Database, files: EpochFiles, before: int) -> Pruned:
    """Take receipts of epochs that were closed before a time (ms) out of the books, with their jobs.

    Can be stopped anywhere and called again; a coordinator may run meanwhile.
    """
    old = await database.read(lambda session: queries.closed_before(session, before))
    kept = [(row.number, why) for row in old if (why := await asyncio.to_thread(flaw_of_file, files, row))]
    whole = {row.number for row in old} - {number for number, _ in kept}
    receipts = jobs = 0
    after = b""
    while batch := await database.read(_next(whole, before, after)):
        receipts += await database.write(_drop(batch))
        jobs += len(batch)
        after = batch[-1]
    return Pruned(receipts, jobs, len(whole), tuple(kept))


def sweep_leftovers(folder: Path, now_ms: int) -> int:
    """Remove what processes that were killed had begun to write into the epochs' folder; return how many."""
    left = [
        path
        for path in folder.glob("*.new")
        if now_ms - path.stat().st_mtime * 1000 > LEFTOVER_MS and not _is_alive(path.stem.rpartition("-")[2])
    ]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _is_alive(process: str) -> bool:
    """Return whether a process of this number runs; its name is in that of the file that it writes."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def flaw_of_file(files: EpochFiles, epoch: EpochRow) -> str:
    """Return why an epoch's file cannot stand in for its receipts, empty if it can."""
    try:
        ids = files.load(epoch.file_hash).receipt_ids
    except Broken as error:
        return str(error)
    if len(ids) != epoch.receipt_count or receipt_tree(ids).root != epoch.receipts_root:
        return f"{files.path(epoch.file_hash)} has other receipts than those under the epoch's root"
    return ""


def _next(epochs: set[int], before: int, after: bytes) -> Callable[[Session], Sequence[bytes]]:
    return lambda session: queries.old_jobs(session, epochs, before, after=after, limit=JOBS_A_WRITE)


def _drop(batch: Sequence[bytes]) -> Callable[[Session], int]:
    return lambda session: queries.drop_jobs(session, batch)
