"""Hashes that say something without showing it, and seeds that nobody can choose twice."""

import hashlib
from array import array
from collections.abc import Sequence
from struct import Struct
from struct import error as struct_error
from sys import byteorder
from typing import Final

import msgspec

from tallystick.protocol.frames import Challenge
from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import Address, ModelId, address_bytes
from tallystick.protocol.parameters import Parameters

NO_SKETCH: Final = bytes(32)
"""The sketch root of a receipt whose node keeps no activation sketches."""

_parameters_encoder: Final = msgspec.json.Encoder(order="sorted")
_CHALLENGE: Final = Struct(">IQI")


def prompt_commitment(salt: bytes, ids: Sequence[int]) -> bytes:
    """Return keccak256("tallystick/prompt/v1" ‖ 0 ‖ salt ‖ ids, four bytes each, little endian).

    Raises ValueError for a salt that is not 32 bytes or an id that is not a uint32.
    """
    return keccak256(b"tallystick/prompt/v1\0" + _salt(salt) + _words(ids))


def output_commitment(salt: bytes, ids: Sequence[int]) -> bytes:
    """Return the like of `prompt_commitment` for one part's ids, under "tallystick/output/v1"."""
    return keccak256(b"tallystick/output/v1\0" + _salt(salt) + _words(ids))


def opaque_output_commitment(salt: bytes, text: bytes) -> bytes:
    """Return keccak256("tallystick/text/v1" ‖ 0 ‖ salt ‖ text), for engines that give no token ids.

    Raises ValueError for a salt that is not 32 bytes.
    """
    return keccak256(b"tallystick/text/v1\0" + _salt(salt) + text)


def canonical_parameters(parameters: Parameters) -> bytes:
    """Return every field as JSON: sorted keys, no spaces, integers only, UTF-8 unescaped where JSON allows.

    Raises ValueError for a stop string that UTF-8 cannot hold (a lone surrogate).
    """
    return _parameters_encoder.encode(parameters)


def parameters_hash(parameters: Parameters) -> bytes:
    """Return keccak256("tallystick/parameters/v1" ‖ 0 ‖ canonical JSON). Raises ValueError as that does."""
    return keccak256(b"tallystick/parameters/v1\0" + canonical_parameters(parameters))


def job_seed(account: Address, model_id: ModelId, parameters_hash: bytes, seed: int) -> bytes:
    """Return the job seed that a caller's `seed` stands for, so that a repeated call repeats its answer.

    SHA-256 of "seed/v1" ‖ account (20 bytes) ‖ model id ‖ parameters hash ‖ seed (8 bytes, signed, big
    endian). Raises ValueError for a seed that is not an int64, or ids of a wrong length.
    """
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"a seed of {seed} is not a signed 64-bit integer")
    if len(model_id) != 32 or len(parameters_hash) != 32:
        raise ValueError("a model id and a parameters hash have 32 bytes each")
    number = seed.to_bytes(8, "big", signed=True)
    return hashlib.sha256(b"seed/v1" + address_bytes(account) + model_id + parameters_hash + number).digest()


def hello_digest(challenge: Challenge) -> bytes:
    """Return what a node signs to prove its key to this coordinator: every field of `challenge`.

    keccak256("tallystick/hello/v1" ‖ 0 ‖ version (4 bytes) ‖ chain id (8) ‖ fee (4) ‖ coordinator ‖ ledger ‖
    stake (20 each) ‖ keccak256(nonce) ‖ keccak256(software)), big endian. The nonce makes it good for one
    connection. Raises ValueError for what does not fit.
    """
    try:
        numbers = _CHALLENGE.pack(challenge.version, challenge.chain_id, challenge.fee_bps)
    except struct_error as error:
        raise ValueError(f"a number of the challenge is out of range: {error}") from error
    return keccak256(
        b"tallystick/hello/v1\0"
        + numbers
        + address_bytes(challenge.coordinator)
        + address_bytes(challenge.ledger)
        + address_bytes(challenge.stake)
        + keccak256(challenge.nonce)
        + keccak256(challenge.software.encode())
    )


def numerics_class_id(name: str) -> bytes:
    """Return the name of a numerics class (`fp32`, `bf16`, …) in UTF-8, padded on the right to 32 bytes.

    Raises ValueError for an empty name, a NUL in it, or more than 32 bytes.
    """
    raw = name.encode()
    if not 0 < len(raw) <= 32 or b"\0" in raw:
        raise ValueError(f"not a name of 1 to 32 bytes: {name!r}")
    return raw.ljust(32, b"\0")


def _salt(salt: bytes) -> bytes:
    if len(salt) != 32:
        raise ValueError(f"a salt has 32 bytes, not {len(salt)}")
    return salt


def _words(ids: Sequence[int]) -> bytes:
    try:
        words = array("I", ids)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"a token id is not a uint32: {error}") from error
    if byteorder == "big":
        words.byteswap()
    return words.tobytes()
