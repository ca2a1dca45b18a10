"""What can go wrong between us and a chain, in words with numbers.

EvmError
├── Reverted           a contract refused, and why
├── NodeUnreachable    the chain's node does not answer, or not sensibly
└── TransactionStuck   broadcast, and not mined in time
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tallystick.protocol.money import NanoUsd, format_usd

_DOLLARS: Final = {
    "active", "amount", "authorized", "balance", "bond", "earned", "given", "leaving", "minimum", "moved",
    "needed", "owed", "pool", "recorded", "requested", "spent", "stake", "unclaimed",
}  # fmt: skip
_TIMES: Final = {"payableAt", "end", "overdueAfter", "releasableAt", "deadline"}
_FOREVER: Final = 2**40
"""Seconds; no clock of a chain gets there, so a larger number is no time."""


class EvmError(Exception):
    """The root; `text` is for people."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class NodeUnreachable(EvmError):
    """The chain's node does not answer; trying again later can help."""


class TransactionStuck(EvmError):
    """A transaction was broadcast and is not mined; it may still be."""

    def __init__(self, transaction: bytes, waited_s: float) -> None:
        super().__init__(
            f"transaction 0x{transaction.hex()} is not mined after {waited_s:.0f} s; it may be yet"
        )
        self.transaction = transaction


class Reverted(EvmError):
    """A contract refused. `name` is the custom error's (`Ledger_PoolShort`), `fields` its values by name."""

    def __init__(self, name: str, fields: Mapping[str, Any]) -> None:
        super().__init__(_words(name, fields))
        self.name = name
        self.fields = dict(fields)


def _words(name: str, fields: Mapping[str, Any]) -> str:
    if name == "Error":
        return str(fields["message"])
    contract, _, rest = name.rpartition("_")
    said = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", rest).lower()
    values = [f"{_label(key)} {_value(key, value, ours=bool(contract))}" for key, value in fields.items()]
    return f"{contract + ': ' if contract else ''}{said}" + (f" ({', '.join(values)})" if values else "")


def _label(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).lower()


def _value(key: str, value: Any, *, ours: bool) -> str:
    # Amounts of our contracts are nano-dollars; those of the token's own errors are units and stay numbers.
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if not isinstance(value, int) or not ours:
        return str(value)
    if key in _TIMES and 0 < value < _FOREVER:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"${format_usd(NanoUsd(value))}" if key in _DOLLARS else str(value)
