"""What only reads ids reads them as the whole tokenizer does, and cannot be made to write endlessly."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from tallystick.models.decoding import MAX_TOKEN_BYTES, decoding_part, load_detokenizer
from tallystick.models.tokenizer import BadTokenizer, HfTokenizer
from tests.unit.tallystick.models.tokenizers_for_tests import byte_fallback_blob, byte_level_blob


def unigram_blob() -> bytes:
    """Return one with a token that is there twice, as in T5's or XLM-R's family."""
    pieces = [("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("a", -3.0), ("a", -4.0), ("é", -5.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer.to_str().encode()


def wordpiece_blob() -> bytes:
    vocabulary = {"[UNK]": 0, "the": 1, "##re": 2, "a": 3, ",": 4}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer.to_str().encode()


BLOBS = {
    "byte-level": byte_level_blob(),
    "byte-fallback": byte_fallback_blob(),
    "unigram": unigram_blob(),
    "wordpiece": wordpiece_blob(),
}
WHOLE = {kind: HfTokenizer(blob) for kind, blob in BLOBS.items()}
PARTS = {kind: load_detokenizer(hashlib.sha256(blob).hexdigest(), blob) for kind, blob in BLOBS.items()}


@settings(max_examples=400, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(BLOBS)))
def test_ids_read_as_the_whole_tokenizer_reads_them(data: st.DataObject, kind: str) -> None:
    whole, part = WHOLE[kind], PARTS[kind]
    assert part.vocab_size == whole.vocab_size
    ids = data.draw(st.lists(st.integers(0, whole.vocab_size + 2), max_size=40))
    assert part.decode(ids) == whole.decode(ids)
    ours, theirs = part.stream(), whole.stream()
    assert [ours.push(one) for one in ids] == [theirs.push(one) for one in ids]
    assert ours.finish() == theirs.finish()


@pytest.mark.parametrize("kind", sorted(BLOBS))
def test_each_token_has_the_text_it_has_in_the_whole(kind: str) -> None:
    for token_id in range(WHOLE[kind].vocab_size):
        assert PARTS[kind].token_bytes(token_id) == WHOLE[kind].token_bytes(token_id)
        assert PARTS[kind].token_text(token_id) == WHOLE[kind].token_text(token_id)


def test_merges_and_patterns_are_left_out() -> None:
    for name in ("normalizer", "pre_tokenizer"):
        riot = {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""}
        left = json.loads(decoding_part(changed(**{name: riot})))
        assert left[name] is None
    assert "merges" not in left["model"]


def changed(**parts: Any) -> bytes:
    return json.dumps({**json.loads(byte_level_blob()), **parts}).encode()


def replacing(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        ({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}, "regular expression"),
        (replacing("a", "aa"), "long texts"),
        (replacing("", "a"), "long texts"),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"}, replacing("a", "é")]}, "long texts"),
        ({"type": "BPEDecoder", "suffix": ""}, "long texts"),
        ({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": False}, "long texts"),
        ({"type": "Novelty"}, "long texts"),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"}] * 32}, "more than 32 parts"),
    ],
)
def test_a_decoder_that_could_lengthen_texts_is_refused(decoder: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadTokenizer, match=reason):
        decoding_part(changed(decoder=decoder))


def test_a_token_out_of_proportion_is_refused() -> None:
    model = json.loads(byte_level_blob())["model"]
    model["vocab"]["é" * (MAX_TOKEN_BYTES // 2)] = 5000
    assert decoding_part(changed(model=model))
    model["vocab"]["é" * (MAX_TOKEN_BYTES // 2) + "a"] = 5001
    with pytest.raises(BadTokenizer, match=f"{MAX_TOKEN_BYTES + 1} bytes"):
        decoding_part(changed(model=model))
    token = {"id": 9000, "content": "a" * 5000, "special": False}
    with pytest.raises(BadTokenizer, match="5000 bytes"):
        decoding_part(changed(added_tokens=[token]))


@pytest.mark.parametrize("blob", [b"", b"[]", b"{}", b'{"model":{"vocab":[1]}}', b"[" * 100_000])
def test_what_is_no_tokenizer_is_refused(blob: bytes) -> None:
    with pytest.raises(BadTokenizer, match="not a tokenizer"):
        load_detokenizer(hashlib.sha256(blob).hexdigest(), blob)
    with pytest.raises(BadTokenizer, match="SHA-256"):
        load_detokenizer("00" * 32, blob)
