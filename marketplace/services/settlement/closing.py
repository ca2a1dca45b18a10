"""A closed epoch enters the books: what its rows moved, and the credit that is settled with it."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.epochs import credit_settled
from marketplace.domain.ports.chain import FaultKind
from marketplace.services import ledger
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.protocol.money import NanoUsd


def mark_rows(session: Session, rows: Sequence[SettlementRow], *, sealed_at: int) -> None:
    """Record what the chain charged and credited accounts with, cumulative; a second time changes nothing."""
    for row in rows:
        if row.account_id == TREASURY_ID:
            continue
        amount = NanoUsd(row.amount)
        if row.kind == FaultKind.CHARGE:
            ledger.mark_charge_settled(session, row.account_id, amount, sealed_at=sealed_at)
        else:
            ledger.mark_payout_settled(session, row.account_id, amount, sealed_at=sealed_at)


def close_epoch(
    session: Session, number: int, *, now: int, transaction: bytes | None, block: int | None, gas_used: int
) -> None:
    """Record the treasury's part in epoch `number`, whose other rows are marked, and that it is closed, once;
    a second time changes nothing."""
    epoch = queries.epoch(session, number)
    if epoch is None or not queries.is_still(session, epoch):
        return
    for row in queries.rows_of_account(session, number, TREASURY_ID):
        # What the treasury's payouts bring is for it to claim; its books count its deposit and its fees.
        if row.kind == FaultKind.CHARGE and row.set_aside is None:
            ledger.treasury_advance(session, NanoUsd(row.amount - row.before), _reference(number), now)
    _settle_credit(session, epoch, now)
    queries.change_epoch(
        session,
        number,
        state="closed",
        closed_at=now,
        closed_transaction=transaction,
        closed_block=block,
        gas_used=gas_used,
    )


def _reference(number: int) -> str:
    return f"epoch {number}"


def _settle_credit(session: Session, epoch: EpochRow, now: int) -> None:
    settled = _credit_now(session) if epoch.credit is None else NanoUsd(epoch.credit)
    if settled:
        ledger.settle_credit(session, settled, _reference(epoch.number), now)


def _credit_now(session: Session) -> NanoUsd:
    """Return what credit nobody waits for, for an epoch that these books did not plan."""
    sums, treasury = queries.sums(session), accounts.find(session, TREASURY_ID)
    granted = 0 if treasury is None else treasury.granted
    return credit_settled(granted - sums.credit_unspent - sums.credit_immature, sums.owed)
