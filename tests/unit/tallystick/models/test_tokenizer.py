import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tallystick.models.tokenizer import (
    EOS_BYTE,
    BadTokenizer,
    ByteTokenizer,
    HfTokenizer,
    Tokenizer,
    load_tokenizer,
)


def _builders():  # type: ignore[no-untyped-def]
    where = Path(__file__).with_name("tokenizers_for_tests.py")
    spec = importlib.util.spec_from_file_location("tokenizers_for_tests", where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILDERS = _builders()
TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": ByteTokenizer(),
    "byte-level": HfTokenizer(BUILDERS.byte_level_blob()),
    "byte-fallback": HfTokenizer(BUILDERS.byte_fallback_blob()),
}
KINDS = st.sampled_from(sorted(TOKENIZERS))


def ids_for(kind: str) -> st.SearchStrategy[list[int]]:
    tokenizer = TOKENIZERS[kind]
    beyond = 0 if kind == "bytes" else 3  # models pad their logits
    arbitrary = st.lists(st.integers(0, tokenizer.vocab_size - 1 + beyond), max_size=60)
    sensible = st.text(max_size=30).map(tokenizer.encode)
    return st.one_of(arbitrary, sensible, st.tuples(arbitrary, sensible).map(lambda two: two[0] + two[1]))


@settings(max_examples=600, deadline=None)
@given(data=st.data(), kind=KINDS)
def test_the_pieces_of_a_stream_are_the_decoded_text(data: st.DataObject, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(ids_for(kind))
    stream = tokenizer.stream()
    pieces = [stream.push(one) for one in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=KINDS, cut=st.integers(0, 60))
def test_a_resumed_stream_goes_on_where_the_resumed_ids_ended(
    data: st.DataObject, kind: str, cut: int
) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(ids_for(kind))
    unbroken = tokenizer.stream()
    before = unbroken.push_all(ids[:cut])
    after = unbroken.push_all(ids[cut:])
    resumed = tokenizer.stream(ids[:cut])
    assert resumed.resumed == before
    assert resumed.push_all(ids[cut:]) == after
    assert resumed.finish() == unbroken.finish()


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40))
def test_byte_tokenizers_give_any_text_back_but_special_tokens(text: str) -> None:
    assume("<|end|>" not in text)
    for kind in ("bytes", "byte-level"):
        assert TOKENIZERS[kind].decode(TOKENIZERS[kind].encode(text)) == text


def test_a_long_answer_of_sentence_pieces_keeps_every_space() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    ids = tokenizer.encode("the the a the " * 40 + "世界 the  the")
    stream = tokenizer.stream()
    assert stream.push_all(ids) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["bytes", "byte-level"])
def test_a_character_is_never_given_in_halves(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    stream = tokenizer.stream()
    pieces = [stream.push(one) for one in tokenizer.encode("a🙂b")]
    assert "".join(pieces) == "a🙂b"
    assert not any("�" in piece for piece in pieces)


def test_special_tokens_have_no_text_but_a_name() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    (end,) = tokenizer.encode("<|end|>")
    assert tokenizer.decode([end]) == ""
    assert tokenizer.token_text(end) == "<|end|>"
    assert TOKENIZERS["bytes"].decode([104, 105, EOS_BYTE]) == "hi"


def test_token_bytes_of_a_text_are_its_bytes() -> None:
    for kind in ("bytes", "byte-level"):
        tokenizer = TOKENIZERS[kind]
        ids = tokenizer.encode("größer 世界 🙂 <思>")
        assert b"".join(map(tokenizer.token_bytes, ids)) == "größer 世界 🙂 <思>".encode()


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_an_id_outside_of_the_vocabulary_has_no_bytes(kind: str) -> None:
    with pytest.raises(BadTokenizer):
        TOKENIZERS[kind].token_bytes(TOKENIZERS[kind].vocab_size)


def test_a_tokenizer_must_be_the_one_that_the_manifest_names() -> None:
    blob = BUILDERS.byte_level_blob()
    assert load_tokenizer(hashlib.sha256(blob).hexdigest(), blob).encode("the")
    with pytest.raises(BadTokenizer, match="SHA-256"):
        load_tokenizer(hashlib.sha256(blob).hexdigest(), blob + b" ")
    with pytest.raises(BadTokenizer, match="not a tokenizer"):
        load_tokenizer(hashlib.sha256(b"{}").hexdigest(), b"{}")
    with pytest.raises(BadTokenizer, match="does not show"):
        load_tokenizer("", b"")


def test_a_tokenizer_that_panics_is_the_models_fault() -> None:
    """The library's panics are no Exceptions: one would end whatever task works for a stranger's model."""
    riot = {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""}
    word = "a" * 4000 + "b"
    tokenizer = json.loads(tokenizers.Tokenizer(tokenizers.models.WordLevel({word: 0}, word)).to_str())
    for decoder in (riot, {"type": "Sequence", "decoders": [{"type": "Fuse"}, riot]}):
        with pytest.raises(BadTokenizer, match="decoder has a regular expression"):
            HfTokenizer(json.dumps({**tokenizer, "decoder": decoder}).encode())
    with pytest.raises(BadTokenizer, match="breaks on this input"):
        HfTokenizer(json.dumps({**tokenizer, "normalizer": riot}).encode()).encode(word)
