"""Events of the contracts in the words of the domain."""

from typing import Final

from marketplace.domain.ports.chain import (
    Authorized,
    Cashed,
    ChainEvent,
    ConsentKeyAdded,
    Deposited,
    Place,
    StakeChanged,
    WithdrawalRequested,
    Withdrawn,
)
from tallystick.evm import Log

LEDGER_EVENTS: Final = (
    "Deposited",
    "Authorized",
    "ConsentKeyAdded",
    "WithdrawalRequested",
    "Withdrawn",
    "Cashed",
)
"""What the books follow; the Ledger has more."""


def event_of(log: Log, *, is_stake: bool) -> ChainEvent | None:
    """Return the domain's event for a log, or None for one that the books do not follow."""
    place = Place(log.transaction, log.index, log.block_number, log.block_hash)
    said = log.fields
    if is_stake:
        return StakeChanged(place)
    match log.event:
        case "Deposited":
            return Deposited(place, said["account"], said["amount"])
        case "Authorized":
            return Authorized(place, said["account"], said["authorized"])
        case "ConsentKeyAdded":
            return ConsentKeyAdded(place, said["account"], said["key"])
        case "WithdrawalRequested":
            return WithdrawalRequested(place, said["account"], said["amount"], said["payableAt"])
        case "Withdrawn":
            return Withdrawn(place, said["account"], said["amount"])
        case "Cashed":
            return Cashed(place, said["account"], said["paid"], said["earned"] - said["short"])
        case _:
            return None
