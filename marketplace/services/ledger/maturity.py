"""Maturity: when a receipt's audit lag is over, its charge and its earning can go into rows."""

from collections import defaultdict

from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.storage.queries import accounts, receipts, settlement


def mature(session: Session, now: int, limit: int) -> int:
    """Mature up to `limit` receipts that are due at `now`; return how many there were."""
    ripe = receipts.ripe(session, now, limit)
    if not ripe:
        return 0
    spent: defaultdict[str, int] = defaultdict(int)
    earned: defaultdict[str, int] = defaultdict(int)
    for _, payer_id, operator_id, charge, fee in ripe:
        spent[payer_id] += charge
        earned[operator_id] += charge - fee
        earned[TREASURY_ID] += fee
    receipts.set_matured(session, [row[0] for row in ripe], settlement.open_batch(session))
    # In the order of their ids, so that two processes cannot wait for each other.
    for account_id in sorted(spent.keys() | earned.keys()):
        accounts.mature(session, account_id, spent=spent[account_id], earned=earned[account_id], now=now)
    return len(ripe)
