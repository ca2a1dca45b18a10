"""The canonical sampler for a batch, in torch: the same tokens as `reference`, in under 3 % of a step.

Only candidates are drawn for, and on a CPU they are found by way of group maxima: of V logits in G
groups, the k-th greatest group maximum is a lower bound of the k-th greatest logit, so a few hundred are
left to sort.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tallystick.protocol.parameters import MILLION, Parameters
from tallystick.protocol.sampler.philox import MASK, MULTIPLIERS, round_keys, stream_of
from tallystick.protocol.sampler.reference import BadLogits, adjustments, top_k_of

_GROUP: Final = 64


class SamplerState:
    """What one answer's sampling depends on, from one position to the next."""

    def __init__(self, parameters: Parameters, job_seed: bytes, resumed: Iterable[int] = ()) -> None:
        """Start an answer, or go on after `resumed`. Raises ValueError for a seed that is not 32 bytes."""
        k0, k1, d0, d1 = stream_of(job_seed)
        self.parameters = parameters
        self.position = 0
        self.top_k = top_k_of(parameters)
        self.added = adjustments(parameters, {})
        self._penalised = bool(parameters.presence_penalty or parameters.frequency_penalty)
        self._seen: set[int] = set()
        self.counter = (d0, d1)
        self.keys = round_keys(k0, k1)
        for token_id in resumed:
            self.advance(token_id)

    def advance(self, token_id: int) -> None:
        """Count `token_id` as the token at this position, and go to the next."""
        self.position += 1
        if self._penalised:
            penalty = self.parameters.frequency_penalty
            if token_id not in self._seen:
                self._seen.add(token_id)
                penalty += self.parameters.presence_penalty
            self.added[token_id] = self.added.get(token_id, 0) - penalty


def sample_batch(logits: Tensor, states: Sequence[SamplerState]) -> Tensor:
    """Return the ids [B] (int64, on the device of `logits`) that follow for `logits` [B, V] (float32).

    Neither argument is changed: the caller advances each state with its token. Raises BadLogits, which names
    the rows.
    """
    if logits.dtype != torch.float32 or logits.dim() != 2 or len(states) != logits.shape[0]:
        raise ValueError(f"{len(states)} states need float32 logits of as many rows, not {logits.shape}")
    # Metal has no float64; its memory is shared with the CPU anyway.
    z = _adjusted(logits if logits.device.type in ("cpu", "cuda") else logits.cpu(), states)
    k = torch.tensor([min(state.top_k, z.shape[1]) for state in states])
    values, ids = _candidates_on_cpu(z, k) if z.device.type == "cpu" else candidates_by_key(z, k)
    kept = _keep(values, states)
    # Candidates are sorted, so each cut leaves the first few: noise for the longest such row is enough.
    width = int(kept.sum(dim=1).max())
    if width > 1:
        scores = values[:, :width] + _column(states, "temperature", values) * gumbel(
            noise_words(states, ids[:, :width])
        )
        best = scores.masked_fill(~kept[:, :width], -torch.inf).argmax(dim=1, keepdim=True)
        ids = ids.gather(1, best)
    return ids[:, 0].to(logits.device)


def noise_words(states: Sequence[SamplerState], ids: Tensor) -> Tensor:
    """Return the uint32 noise (in int64) of `ids` [B, K] at the position of each state."""
    rows = [[state.position, *state.counter] for state in states]
    position, d0, d1 = torch.tensor(rows, device=ids.device).T.unsqueeze(-1)
    keys = torch.tensor([state.keys for state in states], device=ids.device).permute(1, 2, 0).unsqueeze(-1)
    m0, m1 = MULTIPLIERS
    # A product wraps round int64, which leaves its 64 bits right; the copies of its sign are masked off.
    c0, c1, c2, c3 = ids, position, d0, d1
    for k0, k1 in keys:
        p0, p1 = c0 * m0, c2 * m1
        c0, c1 = (p1 >> 32).bitwise_and_(MASK) ^ c1 ^ k0, p1 & MASK
        c2, c3 = (p0 >> 32).bitwise_and_(MASK) ^ c3 ^ k1, p0 & MASK
    return c0


def gumbel(words: Tensor) -> Tensor:
    """Return −ln(−ln((x + 0.5) · 2⁻³²)) in float64."""
    uniform = (words.to(torch.float64) + 0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_()


def candidates_by_key(z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return z (float64) and ids of the candidates [B, max k], −∞ where a row has fewer.

    What is sorted are unique keys, so that no tie is left to the device: the bits of z, made monotonic,
    above the inverted id.
    """
    _check(z.amax(dim=1))
    bits = (z + 0.0).view(torch.int32)  # −0 becomes 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    inverted = MASK - torch.arange(z.shape[1], device=z.device)
    keys = torch.topk((bits.to(torch.int64) << 32) | inverted, int(k.max()), dim=1).values
    ids = MASK - (keys & MASK)
    values = z.gather(1, ids).to(torch.float64)
    beyond = torch.arange(values.shape[1], device=z.device) >= k.to(z.device)[:, None]
    return values.masked_fill(beyond, -torch.inf), ids


def _candidates_on_cpu(z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return the like of `candidates_by_key`, several times faster on a CPU."""
    widest = int(k.max())
    rows, vocabulary = z.shape
    size = max(1, min(_GROUP, vocabulary // (2 * widest)))
    whole = vocabulary // size * size
    maxima = torch.cat((z[:, :whole].reshape(rows, size, -1).amax(dim=1), z[:, whole:]), dim=1)
    greatest = torch.topk(maxima, widest, dim=1).values
    _check(greatest[:, 0])
    bounds = greatest.gather(1, k[:, None] - 1)[:, 0].tolist()
    values = np.full((rows, widest), -np.inf)
    ids = np.zeros((rows, widest), dtype=np.int64)
    for row, logits in enumerate(z.detach().numpy()):
        found = np.flatnonzero(logits >= bounds[row] if bounds[row] > -np.inf else logits > -np.inf)
        found = found[np.argsort(-logits[found], kind="stable")[: k[row]]]
        values[row, : len(found)] = logits[found]
        ids[row, : len(found)] = found
    return torch.from_numpy(values), torch.from_numpy(ids)


def _adjusted(logits: Tensor, states: Sequence[SamplerState]) -> Tensor:
    if not any(state.added for state in states):
        return logits
    z = logits.clone()
    for row, state in enumerate(states):
        fitting = {i: a for i, a in state.added.items() if a and i < z.shape[1]}
        ids = torch.tensor(list(fitting), dtype=torch.int64, device=z.device)
        added = torch.tensor(list(fitting.values()), dtype=torch.float64, device=z.device) / MILLION
        z[row, ids] = (z[row, ids].to(torch.float64) + added).to(torch.float32)
    return z


def _keep(values: Tensor, states: Sequence[SamplerState]) -> Tensor:
    kept = values > -torch.inf
    temperature = _column(states, "temperature", values)
    weights = ((values - values[:, :1]) / temperature.clamp(min=1 / MILLION)).exp_()
    sums = weights.cumsum(dim=1)
    top_p = _column(states, "top_p", values)
    kept[:, 1:] &= (sums[:, :-1] < top_p * sums[:, -1:]) | (top_p >= 1)
    kept &= weights >= _column(states, "min_p", values)
    return kept


def _column(states: Sequence[SamplerState], name: str, like: Tensor) -> Tensor:
    millionths = [[getattr(state.parameters, name)] for state in states]
    return torch.tensor(millionths, dtype=torch.float64, device=like.device) / MILLION


def _check(peaks: Tensor) -> None:
    fine = torch.isfinite(peaks)
    if not bool(fine.all()):
        raise BadLogits(tuple((~fine).nonzero()[:, 0].tolist()))
