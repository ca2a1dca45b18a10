"""Rows between their three forms: planned lines, stored rows, and batches for the Ledger."""

from collections.abc import Sequence

from marketplace.domain.epochs import Line
from marketplace.domain.ports.chain import Batch, Charge, Closing, Consent, FaultKind, Payout
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.audit_secrets import audit_secret_hash
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd


def stored_row(epoch: int, kind: FaultKind, line: Line, *, chunk: int, position: int) -> SettlementRow:
    """Return a line as it is stored."""
    return SettlementRow(
        epoch=epoch,
        kind=kind.value,
        address=line.address,
        account_id=line.account_id,
        chunk=chunk,
        position=position,
        amount=line.amount,
        before=line.before,
        consent_spent=line.consent.spent if line.consent else None,
        consent_signature=line.consent.signature if line.consent else None,
    )


def chunked(
    epoch: int, charges: Sequence[Line], payouts: Sequence[Line], *, size: int, first: int = 0
) -> tuple[list[SettlementRow], int]:
    """Return the lines as rows in chunks of at most `size`, and the number of chunks, at least `first` + 1.

    Charges come first, so that payouts find the pool filled.
    """
    lines = [(FaultKind.CHARGE, line) for line in charges] + [(FaultKind.PAYOUT, line) for line in payouts]
    rows = [
        stored_row(epoch, kind, line, chunk=first + at // size, position=at % size)
        for at, (kind, line) in enumerate(lines)
    ]
    return rows, first + max(1, -(-len(lines) // size))


def line_of(row: SettlementRow) -> Line:
    """Return a stored row as a line."""
    return Line(
        row.account_id, Address(row.address), NanoUsd(row.before), NanoUsd(row.amount), consent_of(row)
    )


def consent_of(row: SettlementRow) -> Consent | None:
    """Return the consent that goes with a row."""
    if row.consent_spent is None or row.consent_signature is None:
        return None
    return Consent(NanoUsd(row.consent_spent), row.consent_signature)


def sent_rows(rows: Sequence[SettlementRow]) -> list[SettlementRow]:
    """Return the rows that are sent: all but those that were set aside."""
    return [row for row in rows if row.set_aside is None]


def chunk_batch(epoch: EpochRow, chunk: int, rows: Sequence[SettlementRow]) -> Batch:
    """Return the transaction for a chunk, whose rows come in their order; the last brings the closing."""
    closing = Closing(
        receipts_root=epoch.receipts_root,
        receipt_count=epoch.receipt_count,
        file_hash=epoch.file_hash,
        audit_secret=epoch.audit_secret,
        next_audit_secret_hash=audit_secret_hash(epoch.next_audit_secret),
    )
    return batch(epoch.number, chunk, rows, closing if chunk == epoch.chunks - 1 else None)


def batch(epoch: int, chunk: int, rows: Sequence[SettlementRow], closing: Closing | None) -> Batch:
    """Return one transaction."""
    charges = [
        Charge(Address(row.address), NanoUsd(row.amount), consent_of(row))
        for row in rows
        if row.kind == FaultKind.CHARGE
    ]
    payouts = [
        Payout(Address(row.address), NanoUsd(row.amount)) for row in rows if row.kind == FaultKind.PAYOUT
    ]
    return Batch(epoch, chunk, tuple(charges), tuple(payouts), closing)
