"""Forward passes: a prompt in chunks, then one token for every row at once.

A `BatchRunner` steps all rows in one pass. Models whose attention it cannot pad (sliding windows, recurrent
layers, soft caps) run row by row in a `SerialRunner`, correct but no faster together than alone. Which one a
model gets is not guessed from its name but tried, see `runner_for`.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from provider.engines.transformers_engine.rows import RowCache

logger = logging.getLogger(__name__)

_PROBE_TOLERANCE = 2e-2


class Runner(Protocol):
    """The model, and the rows that decode together."""

    def prefill(self, ids: Sequence[int], cache: Cache | None) -> tuple[Cache, Tensor]:
        """Read `ids` on top of `cache`; return the longer cache and the last token's logits [V] (float32)."""
        ...

    def admit(self, cache: Cache) -> None:
        """Add a prefilled sequence as the last row."""
        ...

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        ...

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Read one more token per row, in order; return their logits [B, V] (float32)."""
        ...


class _Prefiller:
    def __init__(self, model: Any) -> None:
        self._model = model

    def prefill(self, ids: Sequence[int], cache: Cache | None) -> tuple[Cache, Tensor]:
        model = self._model
        if cache is None:
            cache = DynamicCache(config=model.config)
        out = model(
            input_ids=torch.tensor([list(ids)], device=model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache, out.logits[0, -1].float()


class BatchRunner(_Prefiller):
    """Rows of different lengths in one forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._cache = RowCache(model.config.get_text_config().num_hidden_layers, model.device)

    def admit(self, cache: Cache) -> None:
        self._cache.admit(cache)

    def drop(self, row: int) -> None:
        self._cache.drop(row)

    def decode(self, ids: Sequence[int]) -> Tensor:
        rows = self._cache.rows
        self._cache.make_room()
        rows.begin_step()
        out = self._model(
            input_ids=torch.tensor(ids, device=self._model.device)[:, None],
            position_ids=rows.positions[:, None],
            attention_mask=rows.mask(),
            past_key_values=self._cache,
            use_cache=True,
        )
        rows.end_step()
        logits: Tensor = out.logits[:, -1].float()
        return logits


class SerialRunner(_Prefiller):
    """One forward pass per row, with the model's own cache."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._caches: list[Cache] = []

    def admit(self, cache: Cache) -> None:
        self._caches.append(cache)

    def drop(self, row: int) -> None:
        last = self._caches.pop()
        if row < len(self._caches):
            self._caches[row] = last

    def decode(self, ids: Sequence[int]) -> Tensor:
        return torch.stack(
            [self.prefill((one,), cache)[1] for one, cache in zip(ids, self._caches, strict=True)]
        )


def runner_for(model: Any) -> Runner:
    """Return the fastest runner that gives this model's own logits, found by trying on a few tokens."""
    layers = getattr(DynamicCache(config=model.config), "layers", [])
    is_plain = all(type(layer) is DynamicLayer for layer in layers)
    if is_plain and model.config._attn_implementation == "sdpa" and _agrees(model):
        return BatchRunner(model)
    logger.warning("this model cannot be batched; its jobs run one by one")
    return SerialRunner(model)


def _agrees(model: Any) -> bool:
    """Say whether two rows of unlike lengths get the same logits together as each gets alone."""
    vocabulary = model.get_input_embeddings().num_embeddings
    prompts = [[(7 * n + 3) % vocabulary for n in range(length)] for length in (5, 11)]
    together, alone = BatchRunner(model), SerialRunner(model)
    try:
        for runner in (together, alone):
            for prompt in prompts:
                runner.admit(runner.prefill(prompt, None)[0])
        for step in range(3):
            ids = [(step + 5) % vocabulary, (step + 17) % vocabulary]
            got, expected = together.decode(ids), alone.decode(ids)
            scale = float(expected.abs().amax())
            if not torch.allclose(got, expected, rtol=0, atol=_PROBE_TOLERANCE * max(scale, 1.0)):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError) as error:
        logger.warning("batching failed for this model: %s", error)
        return False
    return True
