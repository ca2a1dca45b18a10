"""The rows of an epoch's file as the books keep them."""

from collections.abc import Iterator, Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.ports.chain import FaultKind
from marketplace.services import ledger
from marketplace.storage.queries.settlement import S
from marketplace.storage.tables import Account, SettlementRow
from tallystick.protocol.epochfile import EpochRows, RowKind
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import from_compact
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row


def stored_rows(
    session: Session, number: int, said: EpochRows, cashed: Mapping[Address, int], now: int
) -> list[SettlementRow]:
    """Return the rows of epoch `number`, those that were set aside last, and make the accounts they need.

    `cashed` has what cheques had credited before the epoch closed (nano-dollars, cumulative).
    """
    consents, rows = iter(said.consents), []
    for kind, one, chunk, position in _in_order(said):
        row = _stored(session, number, kind, one, cashed, now)
        row.chunk, row.position = chunk, position
        if one.flags & CHARGE_HAS_CONSENT:
            consent = next(consents)
            row.consent_spent, row.consent_signature = consent.spent, from_compact(consent.r, consent.vs)
        rows.append(row)
    for aside in said.set_aside:
        kind = FaultKind.CHARGE if aside.kind is RowKind.CHARGE else FaultKind.PAYOUT
        row = _stored(session, number, kind, aside.row, cashed, now)
        row.set_aside = aside.reason
        rows.append(row)
    return rows


def _in_order(said: EpochRows) -> Iterator[tuple[FaultKind, Row, int, int]]:
    """Give the rows that were sent, with their chunk and their place in it."""
    charges, payouts = iter(said.charges), iter(said.payouts)
    for chunk, (charge_count, payout_count) in enumerate(said.chunks):
        for position in range(charge_count):
            yield FaultKind.CHARGE, next(charges), chunk, position
        for position in range(charge_count, charge_count + payout_count):
            yield FaultKind.PAYOUT, next(payouts), chunk, position


def _stored(
    session: Session, number: int, kind: FaultKind, row: Row, cashed: Mapping[Address, int], now: int
) -> SettlementRow:
    owner = ledger.ensure_wallet(session, row.account, now)
    before = owner.spent_settled if kind is FaultKind.CHARGE else _earned_before(session, owner, cashed)
    return SettlementRow(
        epoch=number,
        kind=kind.value,
        address=row.account,
        account_id=owner.id,
        chunk=0,
        position=0,
        amount=row.amount,
        before=min(before, row.amount),
    )


def _earned_before(session: Session, owner: Account, cashed: Mapping[Address, int]) -> int:
    """Return what the chain had credited an account with; the books count no payouts of the treasury's."""
    if owner.id != TREASURY_ID:
        return max(owner.earned_settled, cashed.get(Address(str(owner.address)), 0))
    paid = (S.c.account_id == TREASURY_ID) & (S.c.kind == FaultKind.PAYOUT.value) & S.c.set_aside.is_(None)
    return int(session.scalar(select(func.max(S.c.amount)).where(paid)) or 0)
