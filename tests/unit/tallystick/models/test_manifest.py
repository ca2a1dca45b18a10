import msgspec
import pytest

from tallystick.models.manifest import (
    MAX_CONTEXT_LENGTH,
    BadManifest,
    Manifest,
    canonical_json,
    decode_manifest,
    model_id,
)
from tallystick.protocol.hashing import keccak256


def manifest(**overrides: object) -> Manifest:
    fields: dict[str, object] = {
        "name": "smollm2-135m-instruct",
        "family": "causal-lm",
        "weights": (("config.json", "11" * 32), ("model.safetensors", "22" * 32)),
        "tokenizer": "33" * 32,
        "chat_template": "{{ messages }}",
        "special_tokens": (("bos_token", "<s>"),),
        "eos_ids": (2,),
        "vocab_size": 49152,
        "context_length": 8192,
        "numerics": "fp32",
    }
    return Manifest(**(fields | overrides))  # type: ignore[arg-type]


def test_a_manifest_survives_its_canonical_json() -> None:
    assert decode_manifest(canonical_json(manifest())) == manifest()


def test_a_model_id_is_the_hash_of_the_canonical_json() -> None:
    assert model_id(canonical_json(manifest())) == keccak256(canonical_json(manifest()))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"chat_template": "x"},
        {"numerics": "bf16"},
        {"eos_ids": (2, 3)},
        {"context_length": 4096},
    ],
)
def test_any_difference_makes_another_model(changed: dict[str, object]) -> None:
    assert model_id(canonical_json(manifest(**changed))) != model_id(canonical_json(manifest()))


def test_only_the_canonical_form_is_taken() -> None:
    raw = canonical_json(manifest())
    spaced = raw.replace(b'":', b'": ', 1)
    unsorted = msgspec.json.encode(manifest())
    for other in (spaced, unsorted, raw + b" "):
        assert other != raw
        with pytest.raises(BadManifest, match="canonical"):
            decode_manifest(other)


def test_a_context_has_bounds() -> None:
    assert decode_manifest(canonical_json(manifest(context_length=MAX_CONTEXT_LENGTH)))
    for length in (0, MAX_CONTEXT_LENGTH + 1):
        with pytest.raises(BadManifest, match="context"):
            decode_manifest(canonical_json(manifest(context_length=length)))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"name":', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(BadManifest):
        decode_manifest(raw)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": "../x" * 40},
        {"family": ""},
        {"numerics": "x" * 33},
        {"context_length": 0},
        {"tokenizer": "AB" * 32},
        {"weights": (("model.safetensors", "22"),)},
        {"weights": (("b", "22" * 32), ("a", "22" * 32))},
        {"weights": (("a", "22" * 32), ("a", "22" * 32))},
        {"special_tokens": (("eos_token", "x"), ("bos_token", "y"))},
        {"chat_template": "x" * 300_000},
    ],
)
def test_an_unsound_manifest_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadManifest):
        decode_manifest(canonical_json(manifest(**wrong)))
