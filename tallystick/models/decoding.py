"""What is left of a tokenizer.json where ids are only read: no merges, no patterns, nothing that makes ids.

It is a stranger's file, and what it makes of ids is checked in the coordinator's own process: so its text is
never much longer than its tokens are.
"""

import hashlib
from typing import Any, Final

import msgspec

from tallystick.models.manifest import BYTES_TOKENIZER, OPAQUE_TOKENIZER
from tallystick.models.tokenizer import BadTokenizer, Detokenizer, HfTokenizer, load_tokenizer

MAX_TOKENS: Final = 1_000_000
"""The largest vocabularies have a quarter of it."""
MAX_TOKEN_BYTES: Final = 1024
"""The longest of real ones are runs of 128 to 256 spaces or dashes, written with two bytes for each."""
MAX_DECODERS: Final = 32

_NEVER_LONGER: Final = ("ByteLevel", "WordPiece", "Metaspace", "ByteFallback", "Fuse", "Strip")


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[dict[str, Any]] = []
    decoder: Any = None


_decode: Final = msgspec.json.Decoder(_File).decode


def load_detokenizer(kind: str, blob: bytes) -> Detokenizer:
    """Return what reads the ids of the tokenizer that a manifest names as `kind`.

    Raises BadTokenizer as `load_tokenizer` does, and for one whose text could be out of proportion.
    """
    if kind in (BYTES_TOKENIZER, OPAQUE_TOKENIZER):
        return load_tokenizer(kind, blob)
    found = hashlib.sha256(blob).hexdigest()
    if found != kind:
        raise BadTokenizer(f"the tokenizer has SHA-256 {found}, not {kind}")
    return HfTokenizer(decoding_part(blob))


def decoding_part(blob: bytes) -> bytes:
    """Return a tokenizer.json that decodes as the one in `blob` does. Raises BadTokenizer."""
    try:
        file = _decode(blob)
        tokens = list(file.model.vocab) if isinstance(file.model.vocab, dict) else file.model.vocab
        texts = [one if isinstance(one, str) else one[0] for one in tokens]
        texts += [str(one.get("content")) for one in file.added_tokens]
        longest = max((len(text.encode()) for text in texts), default=0)
    except (ValueError, RecursionError) as error:
        raise BadTokenizer(f"not a tokenizer.json: {error}") from error
    if len(texts) > MAX_TOKENS:
        raise BadTokenizer(f"it has {len(texts)} tokens; {MAX_TOKENS} are the most")
    if longest > MAX_TOKEN_BYTES:
        raise BadTokenizer(f"it has a token of {longest} bytes; {MAX_TOKEN_BYTES} are the most")
    if _count_decoders(file.decoder) > MAX_DECODERS:
        raise BadTokenizer(f"its decoder has more than {MAX_DECODERS} parts")
    return msgspec.json.encode(
        {
            "version": "1.0",
            "added_tokens": file.added_tokens,
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": file.decoder,
            "model": _model(file.model.vocab),
        }
    )


def _model(vocab: dict[str, int] | list[tuple[str, float]]) -> dict[str, Any]:
    if isinstance(vocab, dict):
        return {"type": "WordLevel", "vocab": vocab, "unk_token": ""}
    # Here a token may be there twice, under two ids: only a list can say so.
    return {"type": "Unigram", "vocab": vocab, "unk_id": None}


def _count_decoders(decoder: Any) -> int:
    """Return of how many parts a decoder consists. Raises BadTokenizer if one could lengthen a text."""
    match decoder:
        case None:
            return 0
        case {"type": "Sequence", "decoders": [*parts]}:
            return 1 + sum(map(_count_decoders, parts))
        case {"type": "Replace", "pattern": {"Regex": _}}:
            raise BadTokenizer("its decoder has a regular expression")
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if len(
            new.encode()
        ) <= len(old.encode()):
            return 1
        # Each is replaced by a space, and there is an empty text between any two characters.
        case {"type": "BPEDecoder", "suffix": str(mark)} | {
            "type": "CTC",
            "word_delimiter_token": str(mark),
        } if mark:
            return 1
        case {"type": str(kind)} if kind in _NEVER_LONGER:
            return 1
        case _:
            raise BadTokenizer("its decoder could make long texts of short tokens")
