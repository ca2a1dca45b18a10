"""The canonical sampler in numpy, one token at a time: what the other implementations are held to.

The steps and their numbers are those of the package's docstring.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallystick.protocol.parameters import MILLION, TOP_K_CAP, Parameters
from tallystick.protocol.sampler.philox import gumbel, noise_words

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]
Ids = NDArray[np.int64]


class BadLogits(ValueError):
    """Logits that no token follows from: NaN, +∞, or nothing but −∞; `rows` says where in the batch."""

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__(f"no token follows from the logits of rows {rows}: NaN, +inf, or all of them -inf")
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Choice:
    """The token that follows, and its log-likelihood under the engine's own logits at temperature 1."""

    token_id: int
    logprob: float


def choose(
    logits: Logits, parameters: Parameters, job_seed: bytes, position: int, generated: Mapping[int, int]
) -> Choice:
    """Return the token at `position` for `logits` [V] (float32).

    `generated` counts the tokens of this answer before `position`. Raises BadLogits, and ValueError for a
    seed that is not 32 bytes.
    """
    peak = float(logits.max())
    if not np.isfinite(peak):
        raise BadLogits((0,))
    ids, z = candidates(adjusted(logits, adjustments(parameters, generated)), top_k_of(parameters))
    kept = keep(z, parameters)
    ids, z = ids[kept], z[kept]
    noise = gumbel(noise_words(job_seed, position, ids))
    token_id = int(ids[np.argmax(z + parameters.temperature / MILLION * noise)])
    log_total = peak + float(np.log(np.exp(logits.astype(np.float64) - peak).sum()))
    return Choice(token_id, float(logits[token_id]) - log_total)


def top_k_of(parameters: Parameters) -> int:
    """Return how many candidates there are at most: 1 at temperature 0."""
    if parameters.temperature == 0:
        return 1
    return min(parameters.top_k or TOP_K_CAP, TOP_K_CAP)


def adjustments(parameters: Parameters, generated: Mapping[int, int]) -> dict[int, int]:
    """Return what is added to the logit of each token that has anything added, in millionths (step 1)."""
    added: dict[int, int] = {}
    for token_id, bias in parameters.logit_bias:
        added[token_id] = added.get(token_id, 0) + bias
    if parameters.presence_penalty or parameters.frequency_penalty:
        for token_id, count in generated.items():
            penalty = parameters.presence_penalty + parameters.frequency_penalty * count if count else 0
            added[token_id] = added.get(token_id, 0) - penalty
    return added


def adjusted(logits: Logits, added: Mapping[int, int]) -> Logits:
    """Return z: `logits` with `added` millionths, each sum rounded to float32 once (step 1)."""
    z = logits.copy()
    for token_id, millionths in added.items():
        if millionths and token_id < len(z):
            z[token_id] = np.float32(np.float64(z[token_id]) + millionths / MILLION)
    return z


def candidates(z: Logits, k: int) -> tuple[Ids, Scores]:
    """Return the ids and the z of the candidates, greatest first, lower ids before higher ones (step 2)."""
    order = np.argsort(-z, kind="stable")[:k]
    order = order[z[order] > -np.inf]
    return order.astype(np.int64), z[order].astype(np.float64)


def keep(z: Scores, parameters: Parameters) -> NDArray[np.bool_]:
    """Return which candidates stay after top-p and min-p (steps 3 and 4)."""
    stays = np.ones(len(z), dtype=np.bool_)
    if parameters.temperature == 0:
        return stays
    weights = np.exp((z - z[0]) / (parameters.temperature / MILLION))
    if parameters.top_p < MILLION:
        sums = np.cumsum(weights)
        stays[1:] = sums[:-1] < parameters.top_p / MILLION * sums[-1]
    stays &= weights >= parameters.min_p / MILLION
    return stays
