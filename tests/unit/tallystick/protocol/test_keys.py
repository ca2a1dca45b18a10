"""Keys and signatures: one form only, and nothing that a stranger sends crashes the reader."""

import runpy
import sys

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol import hashing
from tallystick.protocol.hashing import keccak256, keccak256_of
from tallystick.protocol.keys import ORDER, BadSignature, SigningKey, from_compact, recover, to_compact
from tests.unit.tallystick.protocol.builders import NODE, bytes32, keys


def test_keccak_is_ethereums() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@settings(max_examples=200, deadline=None)
@given(keys, bytes32)
def test_keys_sign_as_a_wallet_does(key: SigningKey, digest: bytes) -> None:
    signature = key.sign_digest(digest)
    assert recover(digest, signature) == key.address
    assert Account._recover_hash(digest, signature=signature).lower() == key.address
    assert from_compact(*to_compact(signature)) == signature


def test_a_signature_equals_the_one_of_a_wallet_with_the_same_key() -> None:
    digest = keccak256(b"message")
    wallet = Account.from_key(b"\x01" * 32)
    assert NODE.address == wallet.address.lower()
    assert NODE.sign_digest(digest) == bytes(wallet.unsafe_sign_hash(digest).signature)


@settings(max_examples=300, deadline=None)
@given(bytes32, st.binary(max_size=70))
def test_arbitrary_bytes_are_a_bad_signature_or_somebody_elses(digest: bytes, signature: bytes) -> None:
    try:
        signer = recover(digest, signature)
    except BadSignature:
        return
    assert len(signature) == 65
    assert signer != NODE.address


@settings(max_examples=200, deadline=None)
@given(bytes32, bytes32, bytes32, st.sampled_from([27, 28]))
def test_well_formed_bytes_never_recover_to_a_key_that_did_not_sign(
    digest: bytes, r: bytes, s: bytes, v: int
) -> None:
    try:
        signer = recover(digest, r + s + bytes((v,)))
    except BadSignature:
        return
    assert signer != NODE.address


def test_the_second_form_of_a_signature_is_refused() -> None:
    digest = keccak256(b"message")
    good = NODE.sign_digest(digest)
    s = int.from_bytes(good[32:64], "big")
    twin = good[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - good[64],))
    with pytest.raises(BadSignature, match="upper half"):
        recover(digest, twin)
    for v in (0, 1, 26, 29, 255):
        with pytest.raises(BadSignature, match="v is"):
            recover(digest, good[:64] + bytes((v,)))
    for wrong in (good[:64], good + b"\0", b""):
        with pytest.raises(BadSignature, match="65 bytes"):
            recover(digest, wrong)
    for hollow in (bytes(64) + b"\x1b", good[:32] + bytes(32) + b"\x1b", bytes(32) + good[32:]):
        with pytest.raises(BadSignature, match="no key"):
            recover(digest, hollow)


def test_only_signatures_in_the_one_form_have_a_compact_form() -> None:
    good = NODE.sign_digest(keccak256(b"message"))
    high = good[:32] + b"\xff" + good[33:]
    for wrong in (good[:64], good[:64] + b"\0", high):
        with pytest.raises(BadSignature):
            to_compact(wrong)
    with pytest.raises(BadSignature):
        from_compact(bytes(31), bytes(32))


def test_a_key_never_shows_its_secret() -> None:
    assert "01010101" not in repr(NODE)
    assert NODE.address in repr(NODE)


@pytest.mark.parametrize("secret", [b"", bytes(32), bytes(31), b"\xff" * 32, b"\x01" * 33])
def test_what_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError):
        SigningKey(secret)
    with pytest.raises(ValueError, match="digest"):
        NODE.sign_digest(secret[:31])


def test_the_slower_keccak_gives_the_same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sha3", None)  # importing it now fails, as where it is not installed
    slower = runpy.run_path(hashing.__file__)
    assert "_new_of_pycryptodome" in slower
    for length in (0, 1, 135, 136, 137, 1000):
        data = bytes(range(256)) * 4
        assert slower["keccak256"](data[:length]) == keccak256(data[:length])
        assert slower["keccak256_of"]([data[:7], data[7:length]]) == keccak256_of([data[:7], data[7:length]])
