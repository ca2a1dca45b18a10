"""A closed epoch enters the books as if they had settled it: its receipts, its rows, what those moved."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import InsufficientBalance
from marketplace.domain.ports.witness import ClosedEpoch
from marketplace.domain.receipts import TakenReceipt
from marketplace.services import ledger
from marketplace.services.catching_up.rows import stored_rows
from marketplace.services.ledger import recovery
from marketplace.services.settlement.closing import close_epoch, mark_rows
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.settlement import P, R, S
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.protocol.eip712 import taken_digest
from tallystick.protocol.epochfile import PAID_BY_TREASURY, EpochFile
from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.protocol.receipts import receipt_charge

IDS_A_READ: Final = 500


class CreditUncovered(InsufficientBalance):
    """The operator's deposit does not cover the credit that restored books promise."""

    code = "credit_uncovered"

    def __init__(self, *, needed: NanoUsd, available: NanoUsd) -> None:
        super().__init__(needed=needed, available=available)
        self.message = (
            f"With this epoch the books promise ${format_usd(needed)} of credit, and the operator's deposit "
            f"is ${format_usd(available)}: credit that was spent since the backup is there again. Deposit "
            f"${format_usd(NanoUsd(needed - available))} at the market's own address, or take credit back "
            "(tallystick credit revoke), and run this again."
        )
        self.args = (self.message,)


@dataclass(frozen=True, slots=True)
class Evidence:
    """An epoch as the Ledger closed it at a time (ms), its file, and what the file does not say."""

    number: int
    closed: ClosedEpoch
    closed_at: int
    file: EpochFile
    operators: Mapping[Address, Address]
    """Who owns the nodes whose receipts the books do not have."""
    cashed: Mapping[Address, int]
    """What cheques had credited by then, cumulative, in nano-dollars."""
    next_secret: bytes


@dataclass(frozen=True, slots=True)
class Entered:
    """What an epoch brought into the books; amounts in nano-dollars."""

    number: int
    receipts: int
    charged: NanoUsd
    forgotten: NanoUsd
    """The part of `charged` that nobody's credit could be charged with."""


def known_receipts(session: Session, ids: Sequence[bytes]) -> set[bytes]:
    """Return which receipts are in the books."""
    known: set[bytes] = set()
    for first in range(0, len(ids), IDS_A_READ):
        some = list(ids[first : first + IDS_A_READ])
        known |= set(session.scalars(select(R.c.id).where(R.c.id.in_(some))))
    return known


def enter_epoch(session: Session, evidence: Evidence, key: SigningKey) -> Entered:
    """Enter an epoch; the coordinator's `key` signs again for the receipts that it has forgotten.

    Raises CreditUncovered or TreasuryShort if the operator's deposit does not cover what the books would
    promise; Broken if the books do not fit to the epoch: they are another market's.
    """
    number, at = evidence.number, evidence.closed_at
    _forget(session, number)
    ids = evidence.file.receipt_ids
    known = known_receipts(session, ids)
    forgotten = _grant_forgotten(session, evidence, known)
    charged = sum(_enter_receipts(session, evidence, known, key))
    batch = queries.batch_before_free(session)
    recovery.mature_settled(session, ids, batch, at)
    rows = stored_rows(session, number, evidence.file.rows, evidence.cashed, at)
    session.add(_epoch(evidence, batch))
    session.flush()
    queries.add_rows(session, rows)
    _keep_consents(session, rows)
    mark_rows(session, [row for row in rows if row.set_aside is None], sealed_at=at)
    place = evidence.closed.place
    close_epoch(session, number, now=at, transaction=place.transaction, block=place.block_number, gas_used=0)
    _check_cover(session)
    return Entered(number, len(ids) - len(known), NanoUsd(charged), forgotten)


def _forget(session: Session, number: int) -> None:
    """Take out what the books say of an epoch that they have not seen closed."""
    session.execute(delete(S).where(S.c.epoch == number))
    session.execute(delete(P).where(P.c.number == number))


def _missing(evidence: Evidence, known: Set[bytes]) -> Iterator[tuple[ReceiptId, int]]:
    ids = evidence.file.receipt_ids
    return ((ReceiptId(ids[place]), place) for place in range(len(ids)) if ids[place] not in known)


def _grant_forgotten(session: Session, evidence: Evidence, known: Set[bytes]) -> NanoUsd:
    """Give the account of the forgotten what it will be charged; return how much that is."""
    recovery.ensure_forgotten(session, evidence.closed_at)
    amount = 0
    for _, place in _missing(evidence, known):
        one = evidence.file.receipt(place)
        payer = recovery.payer_of(session, one.signed.receipt, is_failed_part=one.flags == PAID_BY_TREASURY)
        if payer == recovery.FORGOTTEN_ID:
            amount += receipt_charge(one.signed.receipt)
    if amount:
        reference = f"epoch {evidence.number}, whose books were lost"
        ledger.grant_credit(session, recovery.FORGOTTEN_ID, NanoUsd(amount), reference, evidence.closed_at)
    return NanoUsd(amount)


def _enter_receipts(
    session: Session, evidence: Evidence, known: Set[bytes], key: SigningKey
) -> Iterator[int]:
    """Enter what the books do not have; give what each charges."""
    domain = evidence.file.rows.domain
    for receipt_id, place in _missing(evidence, known):
        one = evidence.file.receipt(place)
        taken = TakenReceipt(
            signed=one.signed,
            id=receipt_id,
            operator=evidence.operators[one.signed.receipt.node],
            taken_epoch=evidence.number,
            taken_signature=key.sign_digest(taken_digest(domain, receipt_id, evidence.number)),
            matures_at=evidence.closed_at,
        )
        recovery.enter_settled(
            session, taken, is_failed_part=one.flags == PAID_BY_TREASURY, now=evidence.closed_at
        )
        yield receipt_charge(one.signed.receipt)


def _epoch(evidence: Evidence, batch: int) -> EpochRow:
    closed = evidence.closed
    return EpochRow(
        number=evidence.number,
        state="sending",
        sealed_at=evidence.closed_at,
        receipts_root=closed.receipts_root,
        receipt_count=closed.receipt_count,
        file_hash=closed.file_hash,
        chunks=len(evidence.file.rows.chunks),
        audit_secret=closed.audit_secret,
        next_audit_secret=evidence.next_secret,
        gas_used=0,
        last_batch=batch,
    )


def _keep_consents(session: Session, rows: Sequence[SettlementRow]) -> None:
    for row in rows:
        if row.consent_spent is not None and row.consent_signature is not None:
            ledger.store_consent(session, row.account_id, NanoUsd(row.consent_spent), row.consent_signature)


def _check_cover(session: Session) -> None:
    """Raise CreditUncovered if more credit is promised than the operator has deposited."""
    treasury = accounts.find(session, TREASURY_ID)
    if treasury is not None and treasury.granted > treasury.balance:
        raise CreditUncovered(needed=NanoUsd(treasury.granted), available=NanoUsd(treasury.balance))
