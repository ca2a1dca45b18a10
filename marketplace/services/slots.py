"""Who has room: the jobs that were given or promised to each node, and those that wait for room, in order."""

import asyncio
from collections import Counter, deque

from tallystick.protocol.ids import Address, ModelId


class Slots:
    """Counts claims by node and model, and wakes one waiting job for each slot that becomes free."""

    def __init__(self, *, most_waiting: int = 1_000) -> None:
        self._claims: Counter[tuple[Address, ModelId]] = Counter()
        self._waiting: dict[ModelId, deque[asyncio.Future[None]]] = {}
        self._most_waiting = most_waiting

    def load(self, node: Address, model_id: ModelId) -> int:
        """Return how many jobs of this model the node has been given."""
        return self._claims[node, model_id]

    def claim(self, node: Address, model_id: ModelId) -> None:
        """Count a job at the node from now on."""
        self._claims[node, model_id] += 1

    def free(self, node: Address, model_id: ModelId) -> None:
        """Count a job no longer, and wake the one that has waited longest."""
        left = self._claims[node, model_id] - 1
        if left > 0:
            self._claims[node, model_id] = left
        else:
            del self._claims[node, model_id]
        self._wake_one(model_id)

    def has_queue_room(self, model_id: ModelId) -> bool:
        """Say whether one more job may wait."""
        return len(self._waiting.get(model_id, ())) < self._most_waiting

    def waiting(self) -> int:
        """Return how many jobs wait for room."""
        return sum(len(queue) for queue in self._waiting.values())

    async def wait(self, model_id: ModelId, timeout: float) -> bool:
        """Return True when it is worth looking again, False after `timeout` seconds."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(model_id, deque())
        queue.append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except TimeoutError:
            return turn.done() and not turn.cancelled()
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake_one(model_id)  # the turn was ours and nobody takes it: pass it on
            raise
        finally:
            if turn in queue:
                queue.remove(turn)
            if not queue and self._waiting.get(model_id) is queue:
                del self._waiting[model_id]
        return True

    def wake_all(self) -> None:
        """Let every waiting job look again; a node has come, or changed its offers."""
        for queue in list(self._waiting.values()):
            while queue:
                _wake(queue.popleft())

    def _wake_one(self, model_id: ModelId) -> None:
        queue = self._waiting.get(model_id)
        while queue:
            if _wake(queue.popleft()):
                return


def _wake(turn: asyncio.Future[None]) -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
