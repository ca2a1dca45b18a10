"""How nodes have done lately: moving averages that routing reads, and a rest after failures."""

from dataclasses import dataclass

from tallystick.protocol.ids import Address

WEIGHT = 0.1
"""What one job counts in an average."""
LONGEST_REST_MS = 60_000
LIE_REST_MS = 600_000


@dataclass(slots=True)
class NodeHistory:
    """One node's record; a new node starts with the benefit of the doubt."""

    success: float = 1.0
    first_token_ms: float = 0.0
    tokens_per_second: float = 0.0
    done: int = 0
    failed: int = 0
    failures_in_a_row: int = 0
    rests_until_ms: int = 0
    _saved: tuple[int, int] = (0, 0)

    def unsaved(self) -> tuple[int, int]:
        """Return the jobs done and failed since the last call, to be added to the stored record."""
        done, failed = self._saved
        self._saved = (self.done, self.failed)
        return self.done - done, self.failed - failed

    def succeeded(self, *, first_token_ms: int, tokens: int, elapsed_ms: int) -> None:
        """Count a part that was delivered and signed for."""
        self.done += 1
        self.failures_in_a_row = 0
        self.success += WEIGHT * (1.0 - self.success)
        first = self.done == 1
        self.first_token_ms += (1.0 if first else WEIGHT) * (first_token_ms - self.first_token_ms)
        if elapsed_ms > 0 and tokens > 1:
            rate = tokens * 1000 / elapsed_ms
            fresh = self.tokens_per_second == 0.0
            self.tokens_per_second += (1.0 if fresh else WEIGHT) * (rate - self.tokens_per_second)

    def failed_at(self, now_ms: int) -> None:
        """Count a failure; each in a row doubles the rest, from one second up to a minute."""
        self.failed += 1
        self.failures_in_a_row += 1
        self.success -= WEIGHT * self.success
        rest = min(LONGEST_REST_MS, 1000 * 2 ** min(self.failures_in_a_row - 1, 16))
        self.rests_until_ms = max(self.rests_until_ms, now_ms + rest)

    def refused_wrongly(self) -> None:
        """Count a job that the node called impossible and another one did.

        Without a rest: engines differ in what they take, and whoever knows where could have nodes rest.
        """
        self.failed += 1
        self.success -= WEIGHT * self.success

    def lied_at(self, now_ms: int) -> None:
        """Count a receipt or a stream that contradicts itself: a long rest."""
        self.failed_at(now_ms)
        self.rests_until_ms = now_ms + LIE_REST_MS


class History:
    """The records of all nodes that were seen since the start."""

    def __init__(self) -> None:
        self._records: dict[Address, NodeHistory] = {}

    def of(self, node: Address) -> NodeHistory:
        """Return the record of `node`, a fresh one if there is none."""
        record = self._records.get(node)
        if record is None:
            record = self._records[node] = NodeHistory()
        return record
