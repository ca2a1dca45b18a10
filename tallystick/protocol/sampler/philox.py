"""The noise stream of the sampler in numpy: Philox4x32-10.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS: Final = 10
MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
WEYL: Final = (0x9E3779B9, 0xBB67AE85)
MASK: Final = 0xFFFFFFFF

Words = NDArray[np.uint32]


@lru_cache(maxsize=4096)
def stream_of(job_seed: bytes) -> tuple[int, int, int, int]:
    """Return (k0, k1, d0, d1) of a job seed: the Philox key and the upper half of its counter.

    Raises ValueError for a seed that is not 32 bytes.
    """
    if len(job_seed) != 32:
        raise ValueError(f"a job seed has 32 bytes, not {len(job_seed)}")
    h = hashlib.sha256(b"noise/v1\0" + job_seed).digest()
    k0, k1, d0, d1 = (int.from_bytes(h[at : at + 4], "little") for at in (0, 4, 8, 12))
    return k0, k1, d0, d1


def round_keys(k0: int, k1: int) -> tuple[tuple[int, int], ...]:
    """Return the keys of the ten rounds."""
    return tuple(((k0 + n * WEYL[0]) & MASK, (k1 + n * WEYL[1]) & MASK) for n in range(ROUNDS))


def philox4x32(counter: tuple[ArrayLike, ...], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Return the four words of Philox4x32-10 for a counter of four uint32 (arrays broadcast)."""
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    low, half = np.uint64(MASK), np.uint64(32)
    m0, m1 = (np.uint64(m) for m in MULTIPLIERS)
    for k0, k1 in round_keys(*key):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
    w0, w1, w2, w3 = (word.astype(np.uint32) for word in np.broadcast_arrays(c0, c1, c2, c3))
    return w0, w1, w2, w3


def noise_words(job_seed: bytes, positions: ArrayLike, token_ids: ArrayLike) -> Words:
    """Return the uint32 noise of `token_ids` at `positions` (arrays broadcast against each other).

    Raises ValueError for a seed that is not 32 bytes.
    """
    k0, k1, d0, d1 = stream_of(job_seed)
    return philox4x32((token_ids, positions, d0, d1), (k0, k1))[0]


def gumbel(words: NDArray[Any]) -> NDArray[np.float64]:
    """Return −ln(−ln((x + 0.5) · 2⁻³²)) of uint32 words."""
    uniform: NDArray[np.float64] = (words.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log(-np.log(uniform))
