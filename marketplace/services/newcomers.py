"""How many new models, and how large, an operator may bring into the catalog in a day.

Trying one out costs this machine time, and keeping it, disk and memory for good: one stake must not buy all
of that. The counts are in this process's memory; a restart begins them anew.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from marketplace.domain.ports.clock import Clock
from marketplace.services.blobs import NotAdmitted
from tallystick.protocol.ids import Address

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class _Tried:
    at_ms: int
    size: int


class Newcomers:
    """Counts what each operator offered in the last 24 hours, whether or not it got in; 0: no limit."""

    def __init__(self, clock: Clock, *, most_models: int, most_bytes: int) -> None:
        self._clock = clock
        self._most_models = most_models
        self._most_bytes = most_bytes
        self._tried: dict[Address, deque[_Tried]] = {}
        self._turns: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    def turn(self, operator: Address | None) -> asyncio.Lock:
        """Return the lock of an operator, which brings one model at a time; None: somebody we trust."""
        if operator is None:
            return asyncio.Lock()
        return self._turns.setdefault(operator, asyncio.Lock())

    def check(self, operator: Address | None) -> None:
        """Raise NotAdmitted if the operator may offer nothing more today."""
        tried = self._of(operator)
        if operator is not None and self._most_models and len(tried) >= self._most_models:
            raise NotAdmitted(
                f"{operator} has offered {len(tried)} new models in 24 hours, and {self._most_models} is the "
                f"most (TALLYSTICK_NEW_MODELS_PER_OPERATOR); try again in {self._wait(tried)} minutes"
            )

    def spend(self, operator: Address | None, size: int) -> None:
        """Count a model whose tokenizer has `size` bytes. Raises NotAdmitted if it is too much."""
        self.check(operator)
        if operator is None:
            return
        tried = self._of(operator)
        used = sum(one.size for one in tried)
        if used and used + size > self._most_bytes:
            raise NotAdmitted(
                f"{operator} has offered tokenizers of {used} bytes in 24 hours, this one has {size}, and "
                f"{self._most_bytes} is the most for one operator; try again in {self._wait(tried)} minutes"
            )
        self._tried[operator] = tried
        tried.append(_Tried(self._clock.now_ms(), size))

    def _of(self, operator: Address | None) -> deque[_Tried]:
        """Return what the operator tried in the last day, the oldest first."""
        if operator is None:
            return deque()
        tried = self._tried.get(operator, deque())
        while tried and tried[0].at_ms <= self._clock.now_ms() - DAY_MS:
            tried.popleft()
        if not tried:
            self._tried.pop(operator, None)
        return tried

    def _wait(self, tried: deque[_Tried]) -> int:
        return 1 + (tried[0].at_ms + DAY_MS - self._clock.now_ms()) // 60_000
