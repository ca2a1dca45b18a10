"""Epochs: the books make the very file whose hash is on the chain, and the rows move what the books moved.

An epoch's file has all of its rows and receipts. The file that the books make now is hashed and held against
the hash in the books, the file on disk, and what the Ledger said when it closed the epoch.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
from Crypto.Hash import keccak
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, EntryKind
from marketplace.domain.errors import Broken
from marketplace.domain.ports.chain import Chain, FaultKind
from marketplace.domain.ports.witness import ClosedEpoch, Witness
from marketplace.services.audit_books import Finding
from marketplace.services.settlement.files import EpochFiles, file_rows, stored_receipts
from marketplace.services.settlement.rows import sent_rows
from marketplace.storage.database import Database
from marketplace.storage.queries import pruning
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.accounts import A
from marketplace.storage.queries.entries import E
from marketplace.storage.queries.receipts import R
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.audit_secrets import audit_secret_hash
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.epochfile import (
    BadEpochFile,
    EpochFile,
    EpochRows,
    encode_epoch,
)
from tallystick.protocol.ids import to_hex
from tallystick.protocol.merkle import receipt_tree

UNKNOWN_FILE: Final = bytes(32)
MOST_NAMED: Final = 100


async def audit_epochs(database: Database, files: EpochFiles, domain: Domain) -> Sequence[Finding]:
    """Return what is wrong with any epoch by the books and the files alone."""
    rows: Sequence[EpochRow] = await database.read(_all_epochs)
    findings = list(await database.read(lambda session: list(_audit_rows(session, rows))))
    findings += await database.read(lambda session: list(_audit_batches(session)))
    for epoch in rows:
        findings += await database.read(partial(_audit_file, files, domain, epoch))
        if epoch.file_hash != UNKNOWN_FILE:
            findings += await asyncio.to_thread(_audit_stored, files, epoch)
    return findings


async def audit_closings(
    database: Database, chain: Chain, witness: Witness, first_block: int
) -> Sequence[Finding]:
    """Return which epochs the Ledger closed otherwise than the books say. Raises ChainUnavailable."""
    rows: Sequence[EpochRow] = await database.read(_all_epochs)
    closed = await witness.closed_epochs(first_block, (await chain.head()).number)
    findings = [finding for row in rows for finding in _against_closing(row, closed.get(row.number))]
    known = {row.number for row in rows}
    findings += [
        Finding(
            f"epoch {number}", "an epoch that the Ledger closed is in the books", detail="it is not there"
        )
        for number in sorted(closed.keys() - known)
    ]
    return findings


def _all_epochs(session: Session) -> Sequence[EpochRow]:
    return session.scalars(select(EpochRow).order_by(queries.P.c.number)).all()


def _against_closing(row: EpochRow, closed: ClosedEpoch | None) -> Iterator[Finding]:
    subject = f"epoch {row.number}"
    if closed is None:
        if row.state == "closed":
            yield Finding(subject, "it is closed on the chain", detail="the Ledger has not closed it")
        return
    if row.receipt_count != closed.receipt_count:
        detail = f"expected {closed.receipt_count}, found {row.receipt_count}"
        yield Finding(subject, "its receipts are as many as on the chain", detail=detail)
    pairs = [
        ("its root is the one on the chain", closed.receipts_root, row.receipts_root),
        ("its file is the one on the chain", closed.file_hash, row.file_hash),
        ("its audit secret is the one that was revealed", closed.audit_secret, row.audit_secret),
        (
            "the next audit secret is the one that was committed to",
            closed.next_audit_secret_hash,
            audit_secret_hash(row.next_audit_secret),
        ),
    ]
    for rule, expected, found in pairs:
        if expected != found:
            yield Finding(subject, rule, detail=f"expected {to_hex(expected)}, found {to_hex(found)}")


def _audit_file(files: EpochFiles, domain: Domain, epoch: EpochRow, session: Session) -> list[Finding]:
    return list(_against_books(files, domain, epoch, session))


def _against_books(files: EpochFiles, domain: Domain, epoch: EpochRow, session: Session) -> Iterator[Finding]:
    """Make the epoch's file again out of the books; one whose receipts were pruned is read instead."""
    subject = f"epoch {epoch.number}"
    rows = file_rows(domain, epoch, queries.rows_of(session, epoch.number))
    pruned = _pruned_ids(session, epoch.number)
    if pruned:
        try:
            ids = sorted([*pruned, *queries.receipt_ids_of(session, queries.cut_of(session, epoch))])
            yield from _against_file(ids, files.load(epoch.file_hash), rows, epoch)
        except Broken as error:
            yield Finding(subject, "the file of its pruned receipts is whole", detail=error.message)
        return
    digest = keccak.new(digest_bits=256)
    try:
        for piece in encode_epoch(rows, stored_receipts(session, epoch), epoch.receipt_count):
            digest.update(piece)
    except (BadEpochFile, msgspec.DecodeError) as error:
        yield Finding(subject, "its rows and receipts make a file", detail=str(error))
        return
    if epoch.file_hash not in (UNKNOWN_FILE, digest.digest()):
        detail = f"expected {to_hex(epoch.file_hash)}, found {to_hex(digest.digest())}"
        yield Finding(subject, "its rows and receipts make the file that was published", detail=detail)
    ids = list(queries.receipt_ids_of(session, queries.cut_of(session, epoch)))
    if receipt_tree(ids).root != epoch.receipts_root:
        yield Finding(subject, "its receipts are those under its root", detail="they make another root")


def _against_file(
    ids: Sequence[bytes], file: EpochFile, rows: EpochRows, epoch: EpochRow
) -> Iterator[Finding]:
    """Hold what is left of an epoch in the books against its file; `ids` are its receipts, pruned or not."""
    subject = f"epoch {epoch.number}"
    if file.rows != rows:
        yield Finding(subject, "its rows are those of its file", detail="they are others")
    if file.receipt_ids != ids:
        yield Finding(subject, "its receipts are those of its file", detail="they are others")
    if receipt_tree(file.receipt_ids).root != epoch.receipts_root:
        yield Finding(
            subject, "its file's receipts are those under its root", detail="they make another root"
        )


def _pruned_ids(session: Session, number: int) -> Sequence[bytes]:
    return session.scalars(select(pruning.G.c.id).where(pruning.G.c.epoch == number)).all()


def _audit_stored(files: EpochFiles, epoch: EpochRow) -> list[Finding]:
    digest = keccak.new(digest_bits=256)
    try:
        with files.path(epoch.file_hash).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        return [Finding(f"epoch {epoch.number}", "its file is there", detail=str(error))]
    if digest.digest() == epoch.file_hash:
        return []
    return [
        Finding(f"epoch {epoch.number}", "its file on disk is whole", detail=str(files.path(epoch.file_hash)))
    ]


def _audit_batches(session: Session) -> Iterator[Finding]:
    """What has matured is in a batch, and one batch is open, which no epoch has."""
    odd = R.c.matured.is_(True) != R.c.batch.is_not(None)
    for receipt_id in session.scalars(select(R.c.id).where(odd).limit(MOST_NAMED)):
        yield Finding(f"receipt {to_hex(receipt_id)}", "it is in a batch if it has matured, and only then")
    is_open = session.scalars(select(queries.B.c.number)).all()
    last = max(
        session.execute(select(func.coalesce(func.max(queries.P.c.last_batch), -1))).scalar_one(),
        session.execute(select(func.coalesce(func.max(R.c.batch) - 1, -1))).scalar_one(),
    )
    if len(is_open) != 1 or is_open[0] <= last:
        detail = f"expected one after {last}, found {is_open}"
        yield Finding("the open batch", "it is later than every epoch's, and no receipt's is", detail=detail)


def _audit_rows(session: Session, epochs: Sequence[EpochRow]) -> Iterator[Finding]:
    """Rows of closed epochs: the pool ends at zero, amounts go on from the last, and are the accounts'."""
    addresses = {
        row.id: row.address for row in session.execute(select(A.c.id, A.c.address, A.c.spent_settled))
    }
    settled = {row.id: row.spent_settled for row in session.execute(select(A.c.id, A.c.spent_settled))}
    advances = _advances(session)
    charged: dict[str, int] = {}
    for epoch in epochs:
        if epoch.state != "closed":
            continue
        rows = sent_rows(queries.rows_of(session, epoch.number))
        yield from _audit_pool(epoch.number, rows, advances)
        yield from _audit_order(epoch.number, rows)
        for row in rows:
            if addresses.get(row.account_id) != row.address:
                detail = f"{row.address} is not the address of {row.account_id}"
                yield Finding(f"epoch {epoch.number}", "a row is of its account", detail=detail)
            if row.kind == FaultKind.CHARGE:
                if row.before != charged.get(row.address, 0):
                    yield Finding(
                        row.address,
                        "a charge row goes on from the last",
                        charged.get(row.address, 0),
                        row.before,
                    )
                charged[row.address] = row.amount
    for reference in sorted(advances):
        yield Finding(TREASURY_ID, f"nothing was advanced for {reference!r}", 0, advances[reference])
    for account_id, amount in settled.items():
        last = charged.get(str(addresses[account_id]), 0)
        if amount != last:
            yield Finding(account_id, "settled spending is that of its last row", last, amount)


def _audit_pool(number: int, rows: Sequence[SettlementRow], advances: dict[str, int]) -> Iterator[Finding]:
    moved = {kind: sum(row.amount - row.before for row in rows if row.kind == kind) for kind in FaultKind}
    if moved[FaultKind.CHARGE] != moved[FaultKind.PAYOUT]:
        rule = "what its rows charge is what they pay out"
        yield Finding(f"epoch {number}", rule, moved[FaultKind.CHARGE], moved[FaultKind.PAYOUT])
    advanced = sum(
        row.amount - row.before
        for row in rows
        if row.kind == FaultKind.CHARGE and row.account_id == TREASURY_ID
    )
    noted = advances.pop(f"epoch {number}", 0)
    if noted != advanced:
        yield Finding(f"epoch {number}", "the treasury's advance is in the journal", advanced, noted)


def _audit_order(number: int, rows: Sequence[SettlementRow]) -> Iterator[Finding]:
    for chunk in sorted({row.chunk for row in rows}):
        positions = sorted(row.position for row in rows if row.chunk == chunk)
        if positions != list(range(len(positions))):
            detail = f"chunk {chunk} has the positions {positions}"
            yield Finding(f"epoch {number}", "every row has a place of its own", detail=detail)


def _advances(session: Session) -> dict[str, int]:
    """Return what the journal says that the treasury advanced, by epoch."""
    statement = (
        select(E.c.reference, func.sum(E.c.amount))
        .where(E.c.kind == EntryKind.ADVANCE.value)
        .group_by(E.c.reference)
    )
    sums: Mapping[str, int] = {reference: -int(amount) for reference, amount in session.execute(statement)}
    return dict(sums)
