"""Signatures by plain keys, as the contracts accept them: r ‖ s ‖ v, v 27 or 28, s in the lower half."""

from typing import Final

from coincurve import PrivateKey, PublicKey

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import Address

SIGNATURE_BYTES: Final = 65
ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER: Final = ORDER // 2


class BadSignature(ValueError):
    """Bytes that are no signature under the digest, or not in the one form that the contracts accept."""


class SigningKey:
    """A secp256k1 key that signs digests; its text form never shows the secret."""

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        """Take a 32-byte secret. Raises ValueError if it is not one."""
        if len(secret) != 32:
            raise ValueError(f"a key has 32 bytes, not {len(secret)}")
        self._key = PrivateKey(secret)
        self.address: Final = _address_of(self._key.public_key)

    def sign_digest(self, digest: bytes) -> bytes:
        """Return the 65-byte signature under a 32-byte digest; the same digest gives the same signature."""
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes((signature[64] + 27,))

    def __repr__(self) -> str:
        return f"SigningKey({self.address})"


def recover(digest: bytes, signature: bytes) -> Address:
    """Return whose signature it is.

    Raises BadSignature for a wrong length, a `v` other than 27 or 28, an `s` in the upper half, or a point
    that is not on the curve.
    """
    if len(digest) != 32:
        raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    v = signature[64]
    if v not in (27, 28):
        raise BadSignature(f"v is 27 or 28, not {v}")
    if int.from_bytes(signature[32:64], "big") > HALF_ORDER:
        raise BadSignature("s is in the upper half of the order, the second form of a signature")
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes((v - 27,)), digest, hasher=None)
    except ValueError as error:
        raise BadSignature(f"no key gives this signature: {error}") from error
    return _address_of(key)


def to_compact(signature: bytes) -> tuple[bytes, bytes]:
    """Return a 65-byte signature as (r, vs) of EIP-2098, 32 bytes each.

    Raises BadSignature if it is not in the form that `recover` accepts.
    """
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28) or signature[32] & 0x80:
        raise BadSignature("only r ‖ s ‖ v with a low s and v 27 or 28 has a compact form")
    return signature[:32], bytes((signature[32] | (signature[64] - 27) << 7,)) + signature[33:64]


def from_compact(r: bytes, vs: bytes) -> bytes:
    """Return the 65-byte form of a compact signature (EIP-2098). Raises BadSignature for wrong lengths."""
    if len(r) != 32 or len(vs) != 32:
        raise BadSignature(f"r and vs have 32 bytes each, not {len(r)} and {len(vs)}")
    return r + bytes((vs[0] & 0x7F,)) + vs[1:] + bytes((27 + (vs[0] >> 7),))


def _address_of(key: PublicKey) -> Address:
    return Address("0x" + keccak256(key.format(compressed=False)[1:])[12:].hex())
