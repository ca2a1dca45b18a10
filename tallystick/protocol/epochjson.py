"""An epoch's file as JSON, for people: a rendering, which nothing is verified by."""

from collections.abc import Iterable
from typing import Any

from tallystick.protocol.eip712 import Domain, receipt_digest
from tallystick.protocol.epochfile import (
    PAID_BY_TREASURY,
    VERSION,
    EpochFile,
    EpochPage,
    EpochReceipt,
    EpochRows,
)
from tallystick.protocol.ids import to_hex
from tallystick.protocol.rendering import receipt_to_json
from tallystick.protocol.rows import CHARGE_HAS_CONSENT


def to_json(file: EpochFile, first: int = 0, limit: int | None = None) -> dict[str, Any]:
    """Return the file as a JSON object for people, with at most `limit` receipts from the `first` on.

    Money and prices are decimal strings of nano-dollars, hashes `0x…`.
    """
    count = len(file.receipt_ids)
    last = count if limit is None else min(first + limit, count)
    return _document(file.rows, file.hash, count, map(file.receipt, range(first, last)))


def page_to_json(page: EpochPage, file_hash: bytes) -> dict[str, Any]:
    """Return a page in the form of `to_json`, with how many of each the whole file has."""
    counts = page.counts
    return _document(page.rows, file_hash, counts.receipts, page.receipts) | {
        "chunk_count": counts.chunks,
        "charge_count": counts.charges,
        "payout_count": counts.payouts,
        "set_aside_count": counts.set_aside,
    }


def _document(
    rows: EpochRows, file_hash: bytes, count: int, receipts: Iterable[EpochReceipt]
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "hash": to_hex(file_hash),
        "chain_id": rows.chain_id,
        "ledger": rows.ledger,
        "epoch": rows.epoch,
        "chunks": [{"charges": charges, "payouts": payouts} for charges, payouts in rows.chunks],
        "charges": _charges_to_json(rows),
        "payouts": [{"account": row.account, "earned": str(row.amount)} for row in rows.payouts],
        "set_aside": [
            {
                "kind": item.kind.name.lower(),
                "account": item.row.account,
                "amount": str(item.row.amount),
                "reason": item.reason,
            }
            for item in rows.set_aside
        ],
        "receipt_count": count,
        "receipts": [_receipt_to_json(rows.domain, receipt) for receipt in receipts],
    }


def _charges_to_json(rows: EpochRows) -> list[dict[str, Any]]:
    consents = iter(rows.consents)
    charges: list[dict[str, Any]] = []
    for row in rows.charges:
        charge: dict[str, Any] = {"account": row.account, "spent": str(row.amount)}
        if row.flags & CHARGE_HAS_CONSENT:
            consent = next(consents)
            charge["consent"] = {
                "spent": str(consent.spent),
                "r": to_hex(consent.r),
                "vs": to_hex(consent.vs),
            }
        charges.append(charge)
    return charges


def _receipt_to_json(domain: Domain, receipt: EpochReceipt) -> dict[str, Any]:
    return {
        "id": to_hex(receipt_digest(domain, receipt.signed.receipt)),
        "paid_by_treasury": bool(receipt.flags & PAID_BY_TREASURY),
        **receipt_to_json(receipt.signed),
    }
