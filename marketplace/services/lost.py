"""What lost attempts had streamed, kept for the receipts that their nodes may bring later.

A stranger decides how long its answer is, so what is kept is bounded in bytes and not only in number: the
oldest go first. An attempt that would take more than its share is not kept at all, or a few of them would
push out everybody's; its part goes unpaid. The share is more than the longest prompt and answer take that
ordinary models know.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from marketplace.domain.attempts import Attempt
from marketplace.domain.catalog import CatalogModel
from tallystick.protocol.receipts import Receipt

log = structlog.get_logger(__name__)

MOST_LOST: Final = 2_000
MOST_BYTES: Final = 256 * 1024**2
MOST_BYTES_EACH: Final = MOST_BYTES // 8


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt that was lost, and the memory that it takes, in bytes."""

    attempt: Attempt
    model: CatalogModel
    size: int


class LostAttempts:
    """The latest lost attempts, as many as the bounds allow."""

    def __init__(self, *, most_bytes: int = MOST_BYTES, most_bytes_each: int = MOST_BYTES_EACH) -> None:
        self._most_bytes = most_bytes
        self._most_bytes_each = most_bytes_each
        self._kept: OrderedDict[tuple[bytes, int], Lost] = OrderedDict()
        self._bytes = 0

    def remember(self, attempt: Attempt, model: CatalogModel) -> None:
        """Keep what the attempt had streamed, to which nothing comes any more.

        What is more than one attempt's share is not kept, and its part goes unpaid.
        """
        job, size = attempt.job, attempt.kept_bytes()
        if size > self._most_bytes_each:
            log.warning(
                "lost_attempt_too_large",
                job=job.job_id.hex(),
                attempt=job.attempt,
                node=attempt.node.address,
                bytes=size,
                most=self._most_bytes_each,
            )
            return
        self._drop((job.job_id, job.attempt))
        self._kept[job.job_id, job.attempt] = Lost(attempt, model, size)
        self._bytes += size
        while len(self._kept) > MOST_LOST or self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def find(self, receipt: Receipt) -> Lost | None:
        """Return the attempt that a receipt is for, if it is remembered."""
        return self._kept.get((receipt.job_id, receipt.attempt))

    def forget(self, receipt: Receipt) -> None:
        """Let go of the attempt that a receipt is for: it has been paid."""
        self._drop((receipt.job_id, receipt.attempt))

    def _drop(self, key: tuple[bytes, int]) -> None:
        lost = self._kept.pop(key, None)
        if lost is not None:
            self._bytes -= lost.size
