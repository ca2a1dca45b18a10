"""A closed epoch enters the books: what its rows moved, and the credit that is settled with it."""

from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.epochs import credit_settled
from marketplace.domain.ports.chain import FaultKind
from marketplace.services import ledger
from marketplace.services.settlement.rows import sent_rows
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import SettlementRow
from tallystick.protocol.money import NanoUsd


def close_epoch(
    session: Session, number: int, *, now: int, transaction: bytes | None, block: int | None, gas_used: int
) -> None:
    """Record everything that the chain did in epoch `number`, once; a second time changes nothing."""
    epoch = queries.epoch(session, number)
    if epoch is None or epoch.state == "closed":
        return
    for row in sent_rows(queries.rows_of(session, number)):
        _book(session, row, sealed_at=epoch.sealed_at, now=now)
    _settle_credit(session, number, now)
    queries.change_epoch(
        session,
        number,
        state="closed",
        closed_at=now,
        closed_transaction=transaction,
        closed_block=block,
        gas_used=gas_used,
    )


def _book(session: Session, row: SettlementRow, *, sealed_at: int, now: int) -> None:
    amount, reference = NanoUsd(row.amount), f"epoch {row.epoch}"
    is_charge = row.kind == FaultKind.CHARGE
    if row.account_id == TREASURY_ID:
        # What the treasury's payouts bring is for it to claim; its books count its deposit and its fees.
        if is_charge:
            ledger.treasury_advance(session, NanoUsd(row.amount - row.before), reference, now)
    elif is_charge:
        ledger.mark_charge_settled(session, row.account_id, amount, sealed_at=sealed_at)
    else:
        ledger.mark_payout_settled(session, row.account_id, amount, sealed_at=sealed_at)


def _settle_credit(session: Session, number: int, now: int) -> None:
    sums, treasury = queries.sums(session), accounts.find(session, TREASURY_ID)
    granted = 0 if treasury is None else treasury.granted
    settled = credit_settled(granted - sums.credit_unspent - sums.credit_immature, sums.owed)
    if settled:
        ledger.settle_credit(session, settled, f"epoch {number}", now)
