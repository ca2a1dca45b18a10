"""What a prompt takes of a message: exactly what is sent."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.domain.errors import BadRequest
from marketplace.domain.sizes import MOST_PROMPT_BYTES, check_prompt_fits, ids_bytes

BOUNDARIES = (0, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0xFFFFFFFF)


@given(st.lists(st.sampled_from(BOUNDARIES) | st.integers(0, 2**32 - 1), max_size=15))
def test_ids_take_as_many_bytes_as_their_message(ids: list[int]) -> None:
    assert ids_bytes(ids) == len(msgspec.msgpack.encode(ids)) - 1


def test_a_prompt_fits_up_to_the_last_byte() -> None:
    check_prompt_fits((), "a" * MOST_PROMPT_BYTES)
    check_prompt_fits((300,) * (MOST_PROMPT_BYTES // 3), "")
    for ids, text in (((1,), "a" * MOST_PROMPT_BYTES), ((), "é" * (MOST_PROMPT_BYTES // 2 + 1))):
        with pytest.raises(BadRequest, match=f"at most {MOST_PROMPT_BYTES} are possible") as refused:
            check_prompt_fits(ids, text)
        assert refused.value.code == "prompt_too_large"
