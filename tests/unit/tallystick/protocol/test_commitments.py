"""Commitments bind what they are over, and seeds follow from everything that a caller asked for."""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol import commitments
from tallystick.protocol.frames import Challenge
from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import ModelId
from tallystick.protocol.parameters import Parameters
from tests.unit.tallystick.protocol.builders import CONSUMER, LEDGER, NODE, bytes32, u32

token_ids = st.lists(u32, max_size=50)
SALT = b"\x07" * 32
MODEL = ModelId(b"\x13" * 32)


def make_challenge(**fields: Any) -> Challenge:
    given_fields: dict[str, Any] = {
        "version": 1,
        "nonce": b"\x21" * 32,
        "coordinator": NODE.address,
        "chain_id": LEDGER.chain_id,
        "ledger": LEDGER.contract,
        "stake": CONSUMER.address,
        "fee_bps": 500,
        "software": "tallystick/0.1.0",
    }
    return Challenge(**(given_fields | fields))


def test_a_prompt_commitment_is_the_hash_that_the_protocol_says() -> None:
    expected = keccak256(b"tallystick/prompt/v1\0" + SALT + b"\x01\0\0\0" + b"\xff\xff\xff\xff")
    assert commitments.prompt_commitment(SALT, [1, 2**32 - 1]) == expected


@settings(max_examples=200)
@given(bytes32, token_ids, bytes32, token_ids)
def test_commitments_are_equal_only_for_the_same_salt_and_ids(
    salt: bytes, ids: list[int], other_salt: bytes, other_ids: list[int]
) -> None:
    same = (salt, ids) == (other_salt, other_ids)
    for commit in (commitments.prompt_commitment, commitments.output_commitment):
        assert (commit(salt, ids) == commit(other_salt, other_ids)) == same
    assert commitments.prompt_commitment(salt, ids) != commitments.output_commitment(salt, ids)
    text = b"".join(token_id.to_bytes(4, "little") for token_id in ids)
    assert commitments.opaque_output_commitment(salt, text) != commitments.output_commitment(salt, ids)


@pytest.mark.parametrize("ids", [[-1], [2**32], [1.5], ["1"]])
def test_an_id_that_is_no_uint32_is_refused(ids: list[Any]) -> None:
    with pytest.raises(ValueError, match="uint32"):
        commitments.prompt_commitment(SALT, ids)
    with pytest.raises(ValueError, match="salt"):
        commitments.output_commitment(b"short", [])


def test_canonical_parameters_are_sorted_compact_and_complete() -> None:
    text = commitments.canonical_parameters(Parameters(stop=('é"',), logit_bias=((5, -7),))).decode()
    assert text == (
        '{"frequency_penalty":0,"logit_bias":[[5,-7]],"max_tokens":256,"min_p":0,"presence_penalty":0,'
        '"stop":["é\\""],"temperature":1000000,"top_k":0,"top_p":1000000}'
    )


def test_every_parameter_is_under_the_parameters_hash() -> None:
    plain = commitments.parameters_hash(Parameters())
    changes: dict[str, Any] = dict.fromkeys(Parameters.__struct_fields__, 7)
    changes |= {"logit_bias": ((1, 2),), "stop": ("x",)}
    hashes = {commitments.parameters_hash(Parameters(**{name: value})) for name, value in changes.items()}
    assert len(hashes) == len(Parameters.__struct_fields__)
    assert plain not in hashes


def test_a_stop_string_that_utf8_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError):
        commitments.parameters_hash(Parameters(stop=("\ud800",)))


def test_a_job_seed_is_the_hash_that_the_protocol_says_and_hangs_on_every_part() -> None:
    hash_ = commitments.parameters_hash(Parameters())
    seed = commitments.job_seed(NODE.address, MODEL, hash_, -2)
    raw = b"seed/v1" + bytes.fromhex(NODE.address[2:]) + MODEL + hash_ + b"\xff" * 7 + b"\xfe"
    assert seed == hashlib.sha256(raw).digest()
    others = {
        commitments.job_seed(CONSUMER.address, MODEL, hash_, -2),
        commitments.job_seed(NODE.address, ModelId(bytes(32)), hash_, -2),
        commitments.job_seed(NODE.address, MODEL, bytes(32), -2),
        commitments.job_seed(NODE.address, MODEL, hash_, 2),
    }
    assert len(others | {seed}) == 5
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="64-bit"):
            commitments.job_seed(NODE.address, MODEL, hash_, number)
    with pytest.raises(ValueError, match="32 bytes"):
        commitments.job_seed(NODE.address, ModelId(b""), hash_, 0)


# Older agents do not know `minor`, and sign the same: it decides about no more than a word in a log.
@pytest.mark.parametrize("name", [name for name in Challenge.__struct_fields__ if name != "minor"])
def test_every_field_of_a_challenge_is_under_the_digest_that_a_node_signs(name: str) -> None:
    challenge = make_challenge()
    value = getattr(challenge, name)
    match value:
        case bytes():
            changed: Any = bytes(32)
        case int():
            changed = value + 1
        case _:
            changed = LEDGER.contract if value != LEDGER.contract else NODE.address
    other = msgspec.structs.replace(challenge, **{name: changed})
    assert commitments.hello_digest(other) != commitments.hello_digest(challenge)


def test_a_challenge_that_does_not_fit_is_refused() -> None:
    for fields in ({"version": -1}, {"chain_id": 2**64}, {"fee_bps": 2**32}, {"ledger": "0x"}):
        with pytest.raises(ValueError):
            commitments.hello_digest(make_challenge(**fields))


def test_a_numerics_class_is_its_name_padded() -> None:
    assert commitments.numerics_class_id("bf16") == b"bf16" + bytes(28)
    assert commitments.numerics_class_id("x" * 32) == b"x" * 32
    for name in ("", "x" * 33, "a\0"):
        with pytest.raises(ValueError, match="1 to 32"):
            commitments.numerics_class_id(name)
