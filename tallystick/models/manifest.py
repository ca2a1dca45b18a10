"""Manifests: what exactly a model is, so that its id means the same bytes and the same arithmetic everywhere.

`model_id = keccak256(canonical JSON)`. Whoever changes a weight file, the tokenizer, the chat template or the
numerics class serves another model.
"""

import re
from typing import Annotated, Final

import msgspec

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import ModelId

MAX_MANIFEST_BYTES: Final = 256 * 1024
MAX_CONTEXT_LENGTH: Final = 2**22
"""Of what a coordinator keeps in memory of one job; a model that can read more is offered with this."""
BYTES_TOKENIZER: Final = "bytes/v1"
OPAQUE_TOKENIZER: Final = ""

SpecialToken = tuple[str, str]
"""The name by which a chat template knows a token (`bos_token`), and its text."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_WireCount = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class BadManifest(ValueError):
    """Bytes that are not the canonical JSON of a sound manifest."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node serves.

    `weights` are the files that fix the forward pass (weights and config) with their SHA-256 in hex, sorted
    by name. `tokenizer` is the SHA-256 in hex of tokenizer.json, "bytes/v1", or "" where the engine behind
    does not show its tokens. `vocab_size` is the number of logits; 0 where they are not shown. `numerics`
    names the arithmetic: "fp32", "bf16", "gguf-q4_1/fp32", "echo", "opaque".
    """

    name: str
    family: str
    weights: tuple[tuple[str, str], ...] = ()
    tokenizer: str = OPAQUE_TOKENIZER
    chat_template: str = ""
    special_tokens: tuple[SpecialToken, ...] = ()
    eos_ids: tuple[_WireCount, ...] = ()
    vocab_size: _WireCount = 0
    context_length: _WireCount
    numerics: str


_encoder: Final = msgspec.json.Encoder(order="sorted")
_decoder: Final = msgspec.json.Decoder(Manifest)


def canonical_json(manifest: Manifest) -> bytes:
    """Return the bytes that a model id is the hash of: every field, sorted keys, no spaces, UTF-8."""
    return _encoder.encode(manifest)


def model_id(manifest_bytes: bytes) -> ModelId:
    """Return the id of the model with this canonical JSON."""
    return ModelId(keccak256(manifest_bytes))


def decode_manifest(manifest_bytes: bytes) -> Manifest:
    """Return the manifest in `manifest_bytes`.

    Raises BadManifest if they are too many, not canonical, or say something unsound.
    """
    if len(manifest_bytes) > MAX_MANIFEST_BYTES:
        raise BadManifest(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes, not {len(manifest_bytes)}")
    try:
        manifest = _decoder.decode(manifest_bytes)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"not a manifest: {error}") from error
    check_manifest(manifest)
    if canonical_json(manifest) != manifest_bytes:
        raise BadManifest("not the canonical JSON: keys sorted, no spaces, every field present")
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Raise BadManifest for a manifest that no model can have."""
    if not _NAME.fullmatch(manifest.name):
        raise BadManifest(f"not a model name: {manifest.name!r} (letters, digits, . _ : / -; at most 128)")
    if not manifest.family or not 0 < len(manifest.numerics.encode()) <= 32:
        raise BadManifest("a manifest names its family, and its numerics class in 1 to 32 bytes")
    if manifest.context_length < 1:
        raise BadManifest("a model has a context of at least one token")
    if manifest.context_length > MAX_CONTEXT_LENGTH:
        raise BadManifest(f"a context of {manifest.context_length} tokens; {MAX_CONTEXT_LENGTH} are the most")
    if manifest.tokenizer not in (BYTES_TOKENIZER, OPAQUE_TOKENIZER) and not _is_sha256(manifest.tokenizer):
        raise BadManifest(f"neither a SHA-256 in hex, {BYTES_TOKENIZER!r} nor '': {manifest.tokenizer!r}")
    for name, digest in manifest.weights:
        if not name or not _is_sha256(digest):
            raise BadManifest(f"not a weight file with its SHA-256: {name!r}, {digest!r}")
    _check_sorted([name for name, _ in manifest.weights], "weights")
    _check_sorted([name for name, _ in manifest.special_tokens], "special tokens")


def _is_sha256(value: str) -> bool:
    return _SHA256.fullmatch(value) is not None


def _check_sorted(names: list[str], what: str) -> None:
    if names != sorted(set(names)):
        raise BadManifest(f"{what} are sorted by name, each once")
