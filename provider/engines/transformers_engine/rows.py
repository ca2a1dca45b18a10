"""Keys and values of the rows of a batch, padded on the right.

    row 0  k k k k k k . .      length 6
    row 1  k k k . . . . .      length 3        width = the longest row and the token to come
    row 2  k k k k k k k .      length 7

The rows in use are always the first ones: the last takes the place of one that leaves. What lies beyond a
row's length is finite and masked, so that it weighs exactly nothing.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_LENGTH_STEP = 256


class Rows:
    """How long each row is, on the host and for the layers of one step."""

    def __init__(self, device: torch.device) -> None:
        self.lengths: list[int] = []
        self.width = 0
        self.indices = torch.zeros(0, dtype=torch.int64, device=device)
        self.positions = torch.zeros(0, dtype=torch.int64, device=device)

    def begin_step(self) -> None:
        """Fix where this step's keys go: one behind each row's last."""
        self.width = max(self.lengths) + 1
        self.indices = torch.arange(len(self.lengths), device=self.indices.device)
        self.positions = torch.tensor(self.lengths, dtype=torch.int64, device=self.indices.device)

    def mask(self) -> Tensor | None:
        """Return which keys each row may see [B, 1, 1, width] (bool); None if all rows see all of them."""
        if min(self.lengths) + 1 == self.width:
            return None
        columns = torch.arange(self.width, device=self.positions.device)
        return (columns <= self.positions[:, None])[:, None, None, :]

    def end_step(self) -> None:
        """Count the keys that the step has written."""
        self.lengths = [length + 1 for length in self.lengths]


class RowLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values [rows, heads, length, width of a head]."""

    is_sliding = False

    def __init__(self, rows: Rows) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows
        self.k = torch.zeros(0)
        self.v = torch.zeros(0)
        self.is_initialized = True

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing waits: buffers come with the first row."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one token per row [B, heads, 1, d]; return what attention reads [B, heads, width, d]."""
        rows = self._rows
        self.k[rows.indices, :, rows.positions] = key_states[:, :, 0]
        self.v[rows.indices, :, rows.positions] = value_states[:, :, 0]
        count = len(rows.lengths)
        return self.k[:count, :, : rows.width], self.v[:count, :, : rows.width]

    def get_seq_length(self, *_: Any) -> int:
        return self._rows.width - 1

    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        return self._rows.width, 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    def admit(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Copy one sequence [1, heads, n, d] into `row`, which exists."""
        length = keys.shape[2]
        self.k[row, :, :length] = keys[0]
        self.v[row, :, :length] = values[0]

    def move(self, source: int, target: int, length: int) -> None:
        """Let `target` be what `source` is."""
        self.k[target, :, :length] = self.k[source, :, :length]
        self.v[target, :, :length] = self.v[source, :, :length]

    def resize(self, rows: int, length: int, like: Tensor) -> None:
        """Have room for so many rows of such a length, and keep what is there."""
        shape = (rows, like.shape[1], length, like.shape[3])
        self.k = _resized(self.k, shape, like)
        self.v = _resized(self.v, shape, like)


class RowCache(Cache):
    """The cache that one batched forward pass reads and writes."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self.rows = Rows(device)
        self._mine = [RowLayer(self.rows) for _ in range(layers)]
        super().__init__(layers=list(self._mine))

    def admit(self, sequence: Cache) -> None:
        """Add a prefilled sequence as the last row."""
        row = len(self.rows.lengths)
        theirs: list[Any] = sequence.layers
        length = int(theirs[0].keys.shape[2])
        self._reserve(row + 1, length + 1, theirs[0].keys)
        for mine, layer in zip(self._mine, theirs, strict=True):
            mine.admit(row, layer.keys, layer.values)
        self.rows.lengths.append(length)

    def drop(self, row: int) -> None:
        """Remove `row`; the last row takes its place."""
        lengths = self.rows.lengths
        last = len(lengths) - 1
        if row != last:
            for layer in self._mine:
                layer.move(last, row, lengths[last])
            lengths[row] = lengths[last]
        lengths.pop()
        if not lengths:
            self._free()

    def make_room(self) -> None:
        """Have room for one more token in each row."""
        keys = self._mine[0].k
        self._reserve(len(self.rows.lengths), max(self.rows.lengths) + 1, keys)

    def _reserve(self, rows: int, length: int, like: Tensor) -> None:
        keys = self._mine[0].k
        has_rows, has_length = (keys.shape[0], keys.shape[2]) if keys.dim() == 4 else (0, 0)
        if rows <= has_rows and length <= has_length:
            return
        # Doubling keeps copies rare; a step keeps short jobs from reallocating at all.
        wanted_rows = has_rows if rows <= has_rows else max(rows, 2 * has_rows)
        wanted_length = has_length
        if length > has_length:
            wanted_length = max(-(-length // _LENGTH_STEP) * _LENGTH_STEP + _LENGTH_STEP, 3 * has_length // 2)
        for layer in self._mine:
            layer.resize(wanted_rows, wanted_length, like)

    def _free(self) -> None:
        for layer in self._mine:
            layer.k = layer.v = torch.zeros(0)


def _resized(old: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    new = torch.zeros(shape, dtype=like.dtype, device=like.device)
    if old.dim() == 4:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new
