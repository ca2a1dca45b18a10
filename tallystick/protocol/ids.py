"""Names for the identifiers that travel, so that one cannot be passed for another.

Hashes and ids are 32 raw bytes inside the code and `0x…` strings at its edges (HTTP, files, command line).
Addresses are lower-case `0x…` strings everywhere but in calls to a node of the chain, which want the
checksummed form. The `Wire…` types say the same to the decoder of frames, which refuses anything else.
"""

import re
from functools import lru_cache
from typing import Annotated, Final, NewType

from msgspec import Meta

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

WireAddress = Annotated[Address, Meta(pattern=r"\A0x[0-9a-f]{40}\Z")]
WireBytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
WireSignature = Annotated[bytes, Meta(min_length=65, max_length=65)]
WireU8 = Annotated[int, Meta(ge=0, le=2**8 - 1)]
WireU16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
WireU32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# The books keep amounts, times and heights in signed 64-bit columns; the contracts' uint64 is cut to that.
WireU63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")
_BYTES32: Final = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")


def to_address(value: str) -> Address:
    """Return `value` as an `Address` in lower case.

    Raises ValueError if it is not `0x` and 40 hex digits.
    """
    lowered = value.lower()
    if not _ADDRESS.fullmatch(lowered):
        raise ValueError(f"not an address: {value!r} (0x and 40 hex digits are expected)")
    return Address(lowered)


@lru_cache(maxsize=65_536)
def address_bytes(address: Address) -> bytes:
    """Return the 20 bytes of `address`.

    Raises ValueError if it is not `0x` and 40 lower-case hex digits.
    """
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"not an address: {address!r} (0x and 40 lower-case hex digits are expected)")
    return bytes.fromhex(address[2:])


def to_bytes32(value: str) -> bytes:
    """Return the 32 bytes behind `0x…` or bare hex.

    Raises ValueError if it is not 64 hex digits.
    """
    if not _BYTES32.fullmatch(value):
        raise ValueError(f"not 32 bytes in hex: {value!r}")
    return bytes.fromhex(value.removeprefix("0x"))


def to_hex(value: bytes) -> str:
    """Return `value` as `0x…` in lower case."""
    return "0x" + value.hex()
