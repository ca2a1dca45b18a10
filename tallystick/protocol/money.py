"""Money is counted in whole nano-dollars (1e-9 USD); nothing here ever sees a float.

A price of $0.001 per million tokens is exactly one nano-dollar per token, so charges need no rounding.
Where rounding exists its direction is in the function's name.
"""

import re
from typing import NewType

NanoUsd = NewType("NanoUsd", int)
TokenUnits = NewType("TokenUnits", int)
"""Units of the settlement token (6 decimals)."""
TokenCount = NewType("TokenCount", int)

SCALE = 1000
"""Nano-dollars in one unit of the settlement token."""
NANO_PER_USD = 1_000_000_000
MAX_NANO = 2**63 - 1
"""What a signed 64-bit database column holds."""
MOST_PRICE = NANO_PER_USD
"""For a token, in nano-dollars: the dearest answer that there can be still fits the columns."""
BPS = 10_000

# Read digit by digit: a general decimal would take exponents, and round what has very many places.
_DOLLARS = re.compile(r"(?P<sign>-?)\$?(?P<whole>[0-9]{1,20})(?:\.(?P<places>[0-9]{1,40}))?")


def charge(tokens: TokenCount, price: NanoUsd) -> NanoUsd:
    """Return what `tokens` cost at `price` nano-dollars per token; exact."""
    return NanoUsd(tokens * price)


def market_fee_up(amount: NanoUsd, fee_bps: int) -> NanoUsd:
    """Return the market's share of `amount`, rounded up; the node gets the rest, so the parts add up."""
    return NanoUsd(-(-amount * fee_bps // BPS))


def to_units_down(amount: NanoUsd) -> TokenUnits:
    """Return the whole token units in `amount`, rounded down."""
    return TokenUnits(amount // SCALE)


def from_units(units: TokenUnits) -> NanoUsd:
    """Return `units` of the settlement token in nano-dollars; exact."""
    return NanoUsd(units * SCALE)


def parse_usd(text: str) -> NanoUsd:
    """Return the nano-dollars in a decimal string like `"1.25"` or `"$0.0003"`.

    Raises ValueError for what is not a plain decimal with at most nine places, or is beyond `MAX_NANO`.
    """
    parts = _DOLLARS.fullmatch(text.strip())
    if not parts:
        raise ValueError(f"not an amount of dollars: {text[:40]!r}")
    sign, whole, places = parts["sign"], parts["whole"], parts["places"] or ""
    if len(places) > 9:
        raise ValueError(f"{text[:40]!r} has more than nine decimal places")
    nano = int(whole) * NANO_PER_USD + int(places.ljust(9, "0"))
    if nano > MAX_NANO:
        raise ValueError(f"{text[:40]!r} is more than ${format_usd(NanoUsd(MAX_NANO))}")
    return NanoUsd(-nano if sign else nano)


def parse_price(text: str) -> NanoUsd:
    """Return nano-dollars per token for a price in USD per million tokens, like `"0.30"`.

    Raises ValueError for a price that is negative, not a multiple of $0.001 per million, or over MOST_PRICE.
    """
    nano_per_million = parse_usd(text)
    if nano_per_million < 0 or nano_per_million % 1_000_000:
        raise ValueError(f"{text!r} is not a price in steps of $0.001 per million tokens")
    if nano_per_million // 1_000_000 > MOST_PRICE:
        raise ValueError(f"{text!r} is over $1,000,000 per million tokens, the highest price there is")
    return NanoUsd(nano_per_million // 1_000_000)


def format_usd(amount: NanoUsd) -> str:
    """Return `amount` as dollars with all digits that matter and at least two: `"0.30"`, `"0.0000003"`."""
    sign = "-" if amount < 0 else ""
    whole, rest = divmod(abs(amount), NANO_PER_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"


def format_price(price: NanoUsd) -> str:
    """Return a price per token as USD per million tokens: 300 → `"0.30"`."""
    return format_usd(NanoUsd(price * 1_000_000))
