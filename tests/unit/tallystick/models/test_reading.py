"""What reads an answer as it comes reads what decoding it all at once does, and nothing without end."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.models import reading
from tallystick.models.reading import MAX_TEXT_BYTES, reader_of
from tallystick.models.tokenizer import BadTokenizer, ByteTokenizer, HfTokenizer, Tokenizer
from tests.unit.tallystick.models.test_decoding import BLOBS, WHOLE, unigram_blob
from tests.unit.tallystick.models.tokenizers_for_tests import byte_fallback_blob, byte_level_blob

TOKENIZERS: dict[str, Tokenizer] = WHOLE | {"bytes": ByteTokenizer()}


@pytest.fixture(scope="module", autouse=True)
def _short_stretches() -> object:
    """Settle what is read every few tokens, and wait for fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_STRETCH", 5)
        patch.setattr(reading, "MOST_WAITING", 100)
        yield


def ids_for(data: st.DataObject, kind: str) -> list[int]:
    beyond = 0 if kind == "bytes" else 3  # models pad their logits
    some = st.integers(0, TOKENIZERS[kind].vocab_size - 1 + beyond)
    repeated = st.tuples(some, st.integers(1, 30)).map(lambda two: [two[0]] * two[1])
    parts = st.one_of(
        st.lists(some, max_size=40), repeated, st.text(max_size=20).map(TOKENIZERS[kind].encode)
    )
    return [one for part in data.draw(st.lists(parts, max_size=8)) for one in part]


@settings(max_examples=250, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(TOKENIZERS)), width=st.integers(1, 30))
def test_however_ids_come_their_text_is_the_decoded_one(data: st.DataObject, kind: str, width: int) -> None:
    tokenizer, ids = TOKENIZERS[kind], ids_for(data, kind)
    reader = reader_of(tokenizer)
    for start in range(0, len(ids), width):
        before, fork = reader.text(), reader.copy()
        reader.add(ids[start : start + width])
        assert fork.text() == before
    assert reader.text() == tokenizer.decode(ids)
    if ids:
        assert reader.certain_before_last() == tokenizer.stream(ids[:-1]).resumed


LONG = b"x" * 1000


@pytest.mark.parametrize(
    "blob",
    [
        unigram_blob().replace("▁the".encode(), "▁".encode() + LONG),
        byte_level_blob().replace("<思>".encode(), LONG),
    ],
    ids=["unigram", "byte-level"],
)
def test_text_without_end_is_refused_and_leaves_what_was_read(blob: bytes) -> None:
    tokenizer = HfTokenizer(blob)
    one = max(range(tokenizer.vocab_size), key=lambda token: len(tokenizer.token_bytes(token)))
    fits = MAX_TEXT_BYTES // (len(LONG) + 1) - 10
    reader = reader_of(tokenizer, [one] * fits)
    before = reader.text()
    assert len(before) in range(fits * len(LONG), fits * (len(LONG) + 1))
    with pytest.raises(BadTokenizer, match="a text of more than"):
        reader.add([one] * 1_000)
    assert reader.text() == before
    reader.add([one])
    assert reader.text() == tokenizer.decode([one] * (fits + 1))


def test_tokens_without_text_in_a_row_are_bounded_where_they_must_wait() -> None:
    tokenizer = HfTokenizer(byte_fallback_blob())
    byte, word = 3 + 0x41, tokenizer.encode("the")[-1]
    most = reading.MOST_WAITING
    assert reader_of(tokenizer, [word, *[byte] * most, word]).text().count("A") == most
    reader = reader_of(tokenizer, [word, byte])
    with pytest.raises(BadTokenizer, match="no text of their own"):
        reader.add([byte] * (most + 20))
    assert reader.text() == tokenizer.decode([word, byte])


@pytest.mark.parametrize("kind", sorted(BLOBS))
def test_a_long_answer_is_read_in_small_steps(kind: str) -> None:
    """Nothing that is decoded at once is longer than a few stretches, whatever the ids are."""
    most = 0

    class Watched(HfTokenizer):
        def decode(self, ids: object) -> str:
            nonlocal most
            most = max(most, len(ids))  # type: ignore[arg-type]
            return super().decode(ids)  # type: ignore[arg-type]

    tokenizer = Watched(BLOBS[kind])
    chance = random.Random(1)
    speaking = [one for one in range(tokenizer.vocab_size) if tokenizer.speaks(one)]
    for vocabulary in ([*range(tokenizer.vocab_size)], speaking, *([one] for one in speaking[-3:])):
        reader = reader_of(tokenizer)
        for one in chance.choices(vocabulary, k=2_000):
            reader.add((one,))
        assert reader.text()
    assert most < 200
