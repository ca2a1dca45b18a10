"""EIP-1559 transactions, encoded and signed here, so that keys stay inside `SigningKey`."""

from dataclasses import dataclass
from typing import Final

import rlp  # type: ignore[import-untyped]

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import Address, address_bytes
from tallystick.protocol.keys import SigningKey

_TYPE: Final = b"\x02"


@dataclass(frozen=True, slots=True)
class Fees:
    """What is paid per gas at most, and how much of it for the producer of the block, in wei."""

    max_fee: int
    priority_fee: int

    def bumped(self) -> "Fees":
        """Return fees that replace a transaction with these: an eighth more, as nodes ask for."""
        return Fees(self.max_fee + self.max_fee // 8 + 1, self.priority_fee + self.priority_fee // 8 + 1)


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """What is broadcast, its hash, and the nonce that it takes."""

    raw: bytes
    hash: bytes
    nonce: int


def sign_transaction(
    key: SigningKey,
    *,
    chain_id: int,
    nonce: int,
    gas: int,
    fees: Fees,
    to: Address | None,
    data: bytes,
    value: int,
) -> SignedTransaction:
    """Return the signed transaction; `to` None deploys a contract, `value` is in wei."""
    fields: list[object] = [
        chain_id,
        nonce,
        fees.priority_fee,
        fees.max_fee,
        gas,
        b"" if to is None else address_bytes(to),
        value,
        data,
        [],
    ]
    signature = key.sign_digest(keccak256(_TYPE + rlp.encode(fields)))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    raw = _TYPE + rlp.encode([*fields, signature[64] - 27, r, s])
    return SignedTransaction(raw, keccak256(raw), nonce)
