"""The kinds of accounts, and the lines of their journal."""

from enum import StrEnum
from typing import Final

TREASURY_ID: Final = "treasury"
"""The account of the coordinator's operator; there is one."""


class AccountKind(StrEnum):
    """How an account pays: from its own deposit, on credit, or (the market's operator) not at all."""

    WALLET = "wallet"
    EMAIL = "email"
    TREASURY = "treasury"


class EntryKind(StrEnum):
    """What a line of the journal records. The sets below say which column its amount is in."""

    DEPOSIT = "deposit"
    DEPOSIT_UNDONE = "deposit_undone"
    GRANT = "grant"
    GRANT_REVOKED = "grant_revoked"
    CHARGE = "charge"
    WITHDRAWAL = "withdrawal"
    WITHDRAWAL_UNDONE = "withdrawal_undone"
    ADVANCE = "advance"
    FAILED_PART = "failed_part"
    EARNING = "earning"
    FEE = "fee"
    PROMISE = "promise"
    PROMISE_REVOKED = "promise_revoked"
    PROMISE_KEPT = "promise_kept"


BALANCE_KINDS: Final = frozenset(
    {
        EntryKind.DEPOSIT,
        EntryKind.DEPOSIT_UNDONE,
        EntryKind.GRANT,
        EntryKind.GRANT_REVOKED,
        EntryKind.CHARGE,
        EntryKind.WITHDRAWAL,
        EntryKind.WITHDRAWAL_UNDONE,
        EntryKind.ADVANCE,
    }
)
"""Their amounts add up to `balance`."""
SPENDING_KINDS: Final = frozenset({EntryKind.CHARGE, EntryKind.FAILED_PART})
"""Their amounts add up to −`spent`. The treasury pays failed parts; its balance moves with its rows."""
EARNING_KINDS: Final = frozenset({EntryKind.EARNING, EntryKind.FEE})
"""Their amounts add up to `earned` + `earned_pending`."""
PROMISE_KINDS: Final = frozenset({EntryKind.PROMISE, EntryKind.PROMISE_REVOKED, EntryKind.PROMISE_KEPT})
"""Their amounts add up to −`granted`, on the treasury."""
