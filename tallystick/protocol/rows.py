"""Rows of a settlement as the Ledger reads them: one 32-byte word each.

    bit 255            96 95           32 31            0
        [ account: 160   ][ amount: 64   ][ flags: 32    ]

A charge's amount is what the account has ever spent, a payout's what it has ever earned, in nano-dollars.
"""

from dataclasses import dataclass
from typing import Final

from tallystick.protocol.ids import Address, address_bytes

CHARGE_HAS_CONSENT: Final = 1
"""Flag of a charge that brings a consent; consents are consumed in the order of the rows that carry it."""


class BadRow(ValueError):
    """A word that is no row, or a row that does not fit in a word."""


@dataclass(frozen=True, slots=True)
class Row:
    """One account's line in an epoch; `amount` is cumulative, in nano-dollars."""

    account: Address
    amount: int
    flags: int = 0


def pack_row(row: Row) -> bytes:
    """Return the row's 32 bytes. Raises BadRow for a number out of range or a malformed address."""
    if not (0 <= row.amount < 2**64 and 0 <= row.flags < 2**32):
        raise BadRow(f"an amount of {row.amount} with flags {row.flags} does not fit in a row")
    try:
        account = address_bytes(row.account)
    except ValueError as error:
        raise BadRow(str(error)) from error
    return account + row.amount.to_bytes(8, "big") + row.flags.to_bytes(4, "big")


def unpack_row(word: bytes) -> Row:
    """Return the row in a 32-byte word. Raises BadRow for another length."""
    if len(word) != 32:
        raise BadRow(f"a row has 32 bytes, not {len(word)}")
    account = Address("0x" + word[:20].hex())
    return Row(account, int.from_bytes(word[20:28], "big"), int.from_bytes(word[28:], "big"))
