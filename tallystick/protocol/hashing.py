"""keccak256, by the fastest implementation that is installed."""

from collections.abc import Callable, Iterable
from typing import Protocol


class Hasher(Protocol):
    """A keccak256 that takes its input in pieces."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take the next piece."""

    def digest(self) -> bytes:
        """Return the 32 bytes so far."""


new_keccak256: Callable[[bytes], Hasher]
"""Return a `Hasher` that has taken the given first piece."""

try:
    import sha3  # type: ignore[import-untyped]

    new_keccak256 = sha3.keccak_256
except ImportError:  # no wheel and no compiler on this platform: four times slower, equally right
    from Crypto.Hash import keccak

    def _new_of_pycryptodome(data: bytes) -> Hasher:
        return keccak.new(digest_bits=256, data=data, update_after_digest=True)

    new_keccak256 = _new_of_pycryptodome


def keccak256(data: bytes) -> bytes:
    """Return the 32 bytes of Ethereum's keccak256 (not of NIST's SHA3-256)."""
    return new_keccak256(data).digest()


def keccak256_of(pieces: Iterable[bytes | memoryview]) -> bytes:
    """Return keccak256 of the pieces joined, without joining them."""
    hasher = new_keccak256(b"")
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()
