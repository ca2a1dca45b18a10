"""keccak256, by the fastest implementation that is installed."""

from collections.abc import Callable

keccak256: Callable[[bytes], bytes]
"""Return the 32 bytes of Ethereum's keccak256 (not of NIST's SHA3-256)."""

try:
    import sha3  # type: ignore[import-untyped]

    def _keccak_of_pysha3(data: bytes) -> bytes:
        digest: bytes = sha3.keccak_256(data).digest()
        return digest

    keccak256 = _keccak_of_pysha3
except ImportError:  # no wheel and no compiler on this platform: four times slower, equally right
    from Crypto.Hash import keccak

    def _keccak_of_pycryptodome(data: bytes) -> bytes:
        return keccak.new(digest_bits=256, data=data).digest()

    keccak256 = _keccak_of_pycryptodome
