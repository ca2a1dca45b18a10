"""What the chain has confirmed of rows and cheques.

Amounts of rows are cumulative, so a repeated one is harmless.
"""

from dataclasses import dataclass

from sqlalchemy import case
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, EntryKind
from marketplace.domain.errors import Broken
from marketplace.storage.queries import accounts, entries
from marketplace.storage.queries.accounts import A
from tallystick.protocol.money import NanoUsd, format_usd


@dataclass(frozen=True, slots=True)
class _Side:
    """The columns of what an account spends, or of what it earns."""

    settled: str
    matured: str
    since: str


def mark_charge_settled(
    session: Session, account_id: str, amount: NanoUsd, *, sealed_at: int | None = None
) -> None:
    """Record that the chain has charged the account `amount` in all (cumulative, as in its row).

    If more has matured since, its spending accrues from `sealed_at` (ms, when the epoch was put together;
    None: as before). Raises Broken for more than has matured.
    """
    _mark(session, account_id, _Side("spent_settled", "spent_matured", "spent_since"), amount, sealed_at)


def mark_payout_settled(
    session: Session, account_id: str, amount: NanoUsd, *, sealed_at: int | None = None
) -> None:
    """Record that the chain has credited the account with `amount` of earnings in all; otherwise the same."""
    _mark(session, account_id, _Side("earned_settled", "earned", "earned_since"), amount, sealed_at)


def treasury_advance(session: Session, amount: NanoUsd, reference: str = "", now: int = 0) -> None:
    """Record that a row charged the treasury another `amount` (not cumulative) of its deposit.

    Its `spent_settled` is the cumulative amount of its charge rows. Raises Broken if the deposit is smaller.
    """
    if amount < 0:
        raise Broken(f"an advance of {amount} is none")
    values = {"balance": A.c.balance - amount, "spent_settled": A.c.spent_settled + amount}
    if not accounts.change(session, TREASURY_ID, A.c.balance >= amount, **values):
        raise Broken(
            f"the chain took ${format_usd(amount)} from the treasury, more than its deposit in the books"
        )
    entries.add(session, [(TREASURY_ID, EntryKind.ADVANCE, -amount)], now=now, reference=reference)


def note_acknowledged(session: Session, account_id: str, earned: NanoUsd, epoch: int) -> bool:
    """Record a signed cheque; False if a later one was. Raises Broken for more than has matured."""
    if accounts.change(
        session,
        account_id,
        A.c.earned >= earned,
        A.c.acknowledged <= earned,
        acknowledged=earned,
        acknowledged_epoch=epoch,
    ):
        return True
    account = accounts.find(session, account_id)
    if account is None or account.earned < earned:
        raise Broken(f"a cheque of ${format_usd(earned)} for {account_id} is for more than has matured")
    return False


def _mark(session: Session, account_id: str, side: _Side, amount: NanoUsd, sealed_at: int | None) -> None:
    """Raise what is settled of one side; it no longer accrues when nothing of it is left.

    A wallet may both spend and earn: its charges must not put off its payouts, which cheques promise by an
    epoch, nor the reverse.
    """
    since = A.c[side.since] if sealed_at is None else sealed_at
    if accounts.change(
        session,
        account_id,
        A.c[side.settled] <= amount,
        A.c[side.matured] >= amount,
        **{side.settled: amount, side.since: case((A.c[side.matured] <= amount, None), else_=since)},
    ):
        return
    account = accounts.find(session, account_id)
    if account is None or getattr(account, side.matured) < amount:
        raise Broken(f"the chain has ${format_usd(amount)} for {account_id}, more than has matured")
