"""The one writer of money.

    open_hold ──▶ capture   the signed parts are charged, the rest of the hold goes back
             └──▶ release   the consumer pays nothing, the treasury pays the parts that were signed
                            (also by expire_holds; a receipt that comes still later: take_late)
    capture ──▶ mature ──▶ mark_charge_settled, mark_payout_settled, treasury_advance, settle_credit

Functions of a session, to be run by `Database.write`; several may share one work, which is then one unit. A
hold is captured or released exactly once. Every movement is also a line of the journal, and `audit_books`
adds them up.
"""

from marketplace.services.ledger.captures import capture, release, take_late
from marketplace.services.ledger.credit import grant_credit, revoke_credit, settle_credit
from marketplace.services.ledger.deposits import (
    add_consent_key,
    apply_withdrawal,
    credit_deposit,
    drop_consent_key,
    ensure_treasury,
    ensure_wallet,
    note_withdrawal_request,
    set_authorized,
    store_consent,
    undo_deposit,
    undo_withdrawal,
)
from marketplace.services.ledger.holds import HoldTerms, expire_holds, open_hold, unsigned_allowance
from marketplace.services.ledger.maturity import mature
from marketplace.services.ledger.settled import (
    mark_charge_settled,
    mark_payout_settled,
    note_acknowledged,
    treasury_advance,
)

__all__ = [
    "HoldTerms",
    "add_consent_key",
    "apply_withdrawal",
    "capture",
    "credit_deposit",
    "drop_consent_key",
    "ensure_treasury",
    "ensure_wallet",
    "expire_holds",
    "grant_credit",
    "mark_charge_settled",
    "mark_payout_settled",
    "mature",
    "note_acknowledged",
    "note_withdrawal_request",
    "open_hold",
    "release",
    "revoke_credit",
    "set_authorized",
    "settle_credit",
    "store_consent",
    "take_late",
    "treasury_advance",
    "undo_deposit",
    "undo_withdrawal",
    "unsigned_allowance",
]
