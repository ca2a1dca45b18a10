"""How the tokens of a job are drawn, in integers only, so that every party hashes the same bytes."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tallystick.protocol.ids import WireU32

MILLION: Final = 1_000_000
GREEDY_TEMPERATURE: Final = 0
TOP_K_CAP: Final = 256
"""The sampler never looks at more candidates than this."""
MAX_STOP_CHARACTERS: Final = 256
"""Of one stop string; Unicode characters, not bytes."""

# What a decoder of frames accepts; a dialect has tighter bounds. These keep the sums of the sampler in range.
_Fraction = Annotated[int, Meta(ge=0, le=MILLION)]
_Temperature = Annotated[int, Meta(ge=0, le=100 * MILLION)]
_Shift = Annotated[int, Meta(ge=-1000 * MILLION, le=1000 * MILLION)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters of one job; fractions are in millionths.

    `temperature` 0 means the most likely token, the lowest id winning a tie. `top_k` 0 means the protocol's
    cap (256). Penalties are over generated tokens only. `logit_bias` is sorted by token id. `max_tokens`
    counts all generated tokens of the answer, those of earlier nodes included.
    """

    temperature: _Temperature = MILLION
    top_p: _Fraction = MILLION
    top_k: Annotated[int, Meta(ge=0, le=TOP_K_CAP)] = 0
    min_p: _Fraction = 0
    presence_penalty: _Shift = 0
    frequency_penalty: _Shift = 0
    logit_bias: tuple[tuple[WireU32, _Shift], ...] = ()
    max_tokens: WireU32 = 256
    stop: tuple[str, ...] = ()
