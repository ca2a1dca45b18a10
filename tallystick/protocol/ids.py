"""Names for the identifiers that travel, so that one cannot be passed for another.

Hashes and ids are 32 raw bytes inside the code and `0x…` strings at its edges (HTTP, files, command line).
Addresses are lower-case `0x…` strings everywhere but in calls to a node of the chain, which want the checksummed form.
"""

from typing import NewType

Address = NewType("Address", str)
"""An account, operator, node or contract: `0x` and 40 lower-case hex digits."""

JobId = NewType("JobId", bytes)
"""32 random bytes that the coordinator gives a job; an answer's id in the API is made from it."""

ModelId = NewType("ModelId", bytes)
"""keccak256 of a model manifest's canonical JSON (32 bytes)."""

ReceiptId = NewType("ReceiptId", bytes)
"""The EIP-712 digest of a receipt (32 bytes)."""

EpochNumber = NewType("EpochNumber", int)

ZERO_ADDRESS = Address("0x" + "00" * 20)


def to_address(value: str) -> Address:
    """Return `value` as an `Address` in lower case.

    Raises ValueError if it is not `0x` and 40 hex digits.
    """
    lowered = value.lower()
    if len(lowered) != 42 or not lowered.startswith("0x"):
        raise ValueError(f"not an address: {value!r} (0x and 40 hex digits are expected)")
    bytes.fromhex(lowered[2:])
    return Address(lowered)


def to_bytes32(value: str) -> bytes:
    """Return the 32 bytes behind `0x…` or bare hex.

    Raises ValueError if it is not 64 hex digits.
    """
    raw = bytes.fromhex(value.removeprefix("0x"))
    if len(raw) != 32:
        raise ValueError(f"not 32 bytes: {value!r} has {len(raw)}")
    return raw


def to_hex(value: bytes) -> str:
    """Return `value` as `0x…` in lower case."""
    return "0x" + value.hex()
