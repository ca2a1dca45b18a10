"""How the tokens of a job are drawn, in integers only, so that every party hashes the same bytes."""

from typing import Final

import msgspec

MILLION: Final = 1_000_000
GREEDY_TEMPERATURE: Final = 0


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Sampling parameters of one job; fractions are in millionths.

    `temperature` 0 means the most likely token, the lowest id winning a tie. `top_k` 0 means the protocol's
    cap (256). Penalties are over generated tokens only. `logit_bias` is sorted by token id.
    """

    temperature: int = MILLION
    top_p: int = MILLION
    top_k: int = 0
    min_p: int = 0
    presence_penalty: int = 0
    frequency_penalty: int = 0
    logit_bias: tuple[tuple[int, int], ...] = ()
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
