"""The agent's own half of the tally: every receipt it signed, and what the coordinator signed for it.

A receipt is on disk before it is sent, so that after a crash the node can prove its work and never signs
twice for one attempt. Writes that wait at the same time share one durable transaction.

    pending ──ReceiptTaken──▶ taken          pending ──ReceiptRefused──▶ refused
"""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tallystick.protocol.frames import Acknowledged, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import SignedReceipt, receipt_charge, receipt_earning

_Waiting = tuple[str, tuple[Any, ...], "asyncio.Future[None]"]
"""A statement, its values, and who waits for it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipt (
    id BLOB PRIMARY KEY, job_id BLOB NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL,
    stop TEXT NOT NULL, signed_at INTEGER NOT NULL, charge INTEGER NOT NULL, earning INTEGER NOT NULL,
    state TEXT NOT NULL,
    taken_epoch INTEGER, taken_signature BLOB, reason TEXT, settled_epoch INTEGER,
    UNIQUE (job_id, attempt)
);
CREATE INDEX IF NOT EXISTS receipt_state ON receipt (state, signed_at);
CREATE TABLE IF NOT EXISTS cheque (
    account TEXT NOT NULL, epoch INTEGER NOT NULL, earned INTEGER NOT NULL, signature BLOB NOT NULL,
    received_at INTEGER NOT NULL, PRIMARY KEY (account, earned, epoch)
);
CREATE TABLE IF NOT EXISTS finding (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, epoch INTEGER NOT NULL, what TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS watched (
    epoch INTEGER PRIMARY KEY, at INTEGER NOT NULL, block INTEGER NOT NULL, verdict TEXT NOT NULL
);
"""

_KEPT = """
SELECT id, body, stop, signed_at, charge, earning, state, taken_epoch, settled_epoch, reason
FROM receipt WHERE """


@dataclass(frozen=True, slots=True)
class Kept:
    """A receipt with what became of it. Amounts in nano-dollars, `signed_at` in milliseconds."""

    id: ReceiptId
    signed: SignedReceipt
    stop: str
    signed_at: int
    charge: NanoUsd
    earning: NanoUsd
    state: str
    taken_epoch: int | None
    settled_epoch: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Cheque:
    """The coordinator's signature under all that the operator has earned ever, to be settled by `epoch`."""

    account: str
    epoch: int
    earned: NanoUsd
    signature: bytes


class Evidence:
    """The store; one per agent home. Reads are small and direct, writes are grouped and durable."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writes = _open(path)
        self._writes.executescript(_SCHEMA)
        self._database = _open(path)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="evidence")
        self._waiting: list[_Waiting] = []
        self._flushing = False
        self._closed = False

    def close(self) -> None:
        """Finish the writes that wait, tell those who wait for them, and close the file."""
        self._closed = True
        self._writer.shutdown()
        batch, self._waiting = self._waiting, []
        if batch:
            self._finish(batch)
        self._writes.close()
        self._database.close()

    def knows(self, job_id: bytes, attempt: int) -> bool:
        """Return whether a receipt was signed for this attempt."""
        found = self._database.execute(
            "SELECT 1 FROM receipt WHERE job_id = ? AND attempt = ?", (job_id, attempt)
        ).fetchone()
        return found is not None

    async def keep(self, receipt_id: ReceiptId, signed: SignedReceipt, stop: str) -> None:
        """Store a receipt; it is durable when this returns.

        Raises sqlite3.IntegrityError if another receipt for the same attempt is there.
        """
        receipt = signed.receipt
        await self._write(
            "INSERT INTO receipt (id, job_id, attempt, body, stop, signed_at, charge, earning, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
            (
                receipt_id,
                receipt.job_id,
                receipt.attempt,
                msgspec.msgpack.encode(signed),
                stop,
                _now_ms(),
                receipt_charge(receipt),
                receipt_earning(receipt),
            ),
        )

    async def taken(self, frame: ReceiptTaken) -> None:
        """Note the coordinator's signature that it has a receipt; the earliest promise is the one to keep."""
        await self._write(
            "UPDATE receipt SET state = 'taken', taken_epoch = ?, taken_signature = ? "
            "WHERE id = ? AND (taken_epoch IS NULL OR taken_epoch > ?)",
            (frame.epoch, frame.signature, frame.receipt_id, frame.epoch),
        )

    async def refused(self, frame: ReceiptRefused) -> None:
        """Note that the coordinator will not take a receipt, and why."""
        await self._write(
            "UPDATE receipt SET state = 'refused', reason = ? WHERE id = ? AND state = 'pending'",
            (frame.reason[:500], frame.receipt_id),
        )

    async def acknowledged(self, frame: Acknowledged) -> None:
        """Store a cheque."""
        await self._write(
            "INSERT OR REPLACE INTO cheque (account, epoch, earned, signature, received_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (frame.account, frame.epoch, frame.earned, frame.signature, _now_ms()),
        )

    async def settled(self, receipt_id: ReceiptId, epoch: int) -> None:
        """Note under which epoch's root a receipt was found."""
        await self._write("UPDATE receipt SET settled_epoch = ? WHERE id = ?", (epoch, receipt_id))

    async def watched(self, epoch: int, block: int, verdict: str, findings: Sequence[str]) -> None:
        """Note the outcome of checking an epoch that closed at `block`, and what was wrong, each once."""
        for what in findings:
            await self._write(
                "INSERT OR IGNORE INTO finding (at, epoch, what) VALUES (?, ?, ?)", (_now_ms(), epoch, what)
            )
        await self._write(
            "INSERT OR REPLACE INTO watched (epoch, at, block, verdict) VALUES (?, ?, ?, ?)",
            (epoch, _now_ms(), block, verdict),
        )

    def pending(self) -> list[Kept]:
        """Return the receipts that the coordinator has not answered, oldest first."""
        return self._kept("state = 'pending' ORDER BY signed_at, rowid", ())

    def pending_count(self) -> int:
        """Return how many receipts the coordinator has not answered."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM receipt WHERE state = 'pending'").fetchone()
        return int(count)

    def unsettled(self) -> list[Kept]:
        """Return the receipts that were not found in an epoch yet, and were not refused.

        Also those that are not known to be taken: the word that one was may be lost on its way and come again
        after its epoch was checked.
        """
        return self._kept("state <> 'refused' AND settled_epoch IS NULL ORDER BY signed_at, rowid", ())

    def recent(self, limit: int) -> list[Kept]:
        """Return the latest receipts, newest first."""
        return self._kept("1 ORDER BY signed_at DESC, rowid DESC LIMIT ?", (limit,))

    def cheques(self, account: str) -> list[Cheque]:
        """Return all cheques, the largest first."""
        rows = self._database.execute(
            "SELECT account, epoch, earned, signature FROM cheque WHERE account = ? "
            "ORDER BY earned DESC, epoch",
            (account,),
        )
        return [Cheque(row[0], row[1], NanoUsd(row[2]), row[3]) for row in rows]

    def totals(self) -> dict[str, tuple[int, NanoUsd]]:
        """Return, for each state, how many receipts there are and what they earn (nano-dollars)."""
        rows = self._database.execute("SELECT state, COUNT(*), SUM(earning) FROM receipt GROUP BY state")
        return {state: (count, NanoUsd(earning)) for state, count, earning in rows}

    def by_epoch(self) -> list[tuple[int, int, NanoUsd]]:
        """Return (epoch, how many of our receipts, what they earn), newest epoch first."""
        rows = self._database.execute(
            "SELECT settled_epoch, COUNT(*), SUM(earning) FROM receipt WHERE settled_epoch IS NOT NULL "
            "GROUP BY settled_epoch ORDER BY settled_epoch DESC"
        )
        return [(epoch, count, NanoUsd(earning)) for epoch, count, earning in rows]

    def last_watched(self) -> tuple[int, int] | None:
        """Return the latest epoch that was checked, and the block in which it closed."""
        found = self._database.execute(
            "SELECT epoch, block FROM watched ORDER BY epoch DESC LIMIT 1"
        ).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    def findings(self) -> list[tuple[int, str]]:
        """Return (epoch, what was wrong), oldest first."""
        return list(self._database.execute("SELECT epoch, what FROM finding ORDER BY id"))

    def _kept(self, condition: str, values: tuple[Any, ...]) -> list[Kept]:
        rows = self._database.execute(_KEPT + condition, values)
        return [_row_to_kept(row) for row in rows]

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        if self._closed:
            raise sqlite3.ProgrammingError("the evidence is closed")
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, values, done))
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        await done

    def _flush(self) -> None:
        if self._closed:
            return
        batch, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()
        finished = loop.run_in_executor(self._writer, self._commit, batch)
        finished.add_done_callback(lambda outcome: self._flushed(batch, outcome))

    def _flushed(self, batch: list[_Waiting], outcome: "asyncio.Future[list[Exception | None]]") -> None:
        broken = outcome.exception()
        _tell(batch, [broken] * len(batch) if broken is not None else outcome.result())
        if self._waiting:
            self._flush()
        else:
            self._flushing = False

    def _finish(self, batch: list[_Waiting]) -> None:
        try:
            outcomes = self._commit(batch)
        except sqlite3.Error as error:
            outcomes = [error] * len(batch)
        _tell(batch, outcomes)

    def _commit(self, batch: list[_Waiting]) -> list[Exception | None]:
        outcomes: list[Exception | None] = []
        self._writes.execute("BEGIN IMMEDIATE")
        try:
            for statement, values, _ in batch:
                outcomes.append(_execute(self._writes, statement, values))
            self._writes.execute("COMMIT")
        except sqlite3.Error:
            self._writes.rollback()
            raise
        return outcomes


def _tell(batch: Sequence[_Waiting], outcomes: Sequence[BaseException | None]) -> None:
    """Wake those who wait for writes; who was cancelled while the write went on is not there any more."""
    for (_, _, done), error in zip(batch, outcomes, strict=True):
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("PRAGMA busy_timeout=10000")
    return database


def _execute(database: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> Exception | None:
    """Return the constraint that a statement breaks, if it does; SQLite undoes that statement alone."""
    try:
        database.execute(statement, values)
    except sqlite3.IntegrityError as error:
        return error
    return None


def _row_to_kept(row: tuple[Any, ...]) -> Kept:
    receipt_id, body, stop, signed_at, charge, earning, state, taken_epoch, settled_epoch, reason = row
    return Kept(
        id=ReceiptId(receipt_id),
        signed=msgspec.msgpack.decode(body, type=SignedReceipt),
        stop=stop,
        signed_at=signed_at,
        charge=NanoUsd(charge),
        earning=NanoUsd(earning),
        state=state,
        taken_epoch=taken_epoch,
        settled_epoch=settled_epoch,
        reason=reason,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
