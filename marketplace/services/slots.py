"""Who has room: the jobs that were given or promised to each node, and those that wait for room, in order.

A slot that becomes free is the turn of whoever has waited longest. One that has no use for it (the node is
too dear, elsewhere, or was tried) passes the turn on to those behind it and keeps its place: nobody sleeps
beside a free slot, and each is asked once.
"""

import asyncio
from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from tallystick.protocol.ids import Address, ModelId


@dataclass(frozen=True, slots=True)
class Turn:
    """It is worth looking again; `node` has a free slot, or None: something has changed."""

    node: Address | None


@dataclass(order=True, slots=True)
class _Waiter:
    place: int
    turn: "asyncio.Future[Turn]" = field(compare=False)


class Slots:
    """Counts claims by node and model, and gives each slot that becomes free to one waiting job."""

    def __init__(self, *, most_waiting: int = 1_000) -> None:
        self._claims: Counter[tuple[Address, ModelId]] = Counter()
        self._waiting: dict[ModelId, list[_Waiter]] = {}
        self._most_waiting = most_waiting
        self._places = count()

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
        self.pass_on(model_id, Turn(node))

    def has_queue_room(self, model_id: ModelId) -> bool:
        """Say whether one more job may wait."""
        return len(self._waiting.get(model_id, ())) < self._most_waiting

    def waiting(self) -> int:
        """Return how many jobs wait for room."""
        return sum(len(queue) for queue in self._waiting.values())

    def place(self) -> int:
        """Return a place in line, behind all that were given before."""
        return next(self._places)

    async def wait(self, model_id: ModelId, timeout: float, place: int) -> Turn | None:
        """Return whose turn it is when it is worth looking again, None after `timeout` seconds.

        Whoever returns with a Turn must pass it on if it leaves the slot to others.
        """
        waiter = _Waiter(place, asyncio.get_running_loop().create_future())
        queue = self._waiting.setdefault(model_id, [])
        insort(queue, waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter.turn
        except TimeoutError:
            return _given(waiter)
        except asyncio.CancelledError:
            turn = _given(waiter)
            if turn is not None:
                self.pass_on(model_id, turn, place)  # the turn was ours and nobody takes it
            raise
        finally:
            if waiter in queue:
                queue.remove(waiter)
            if not queue and self._waiting.get(model_id) is queue:
                del self._waiting[model_id]

    def pass_on(self, model_id: ModelId, turn: Turn, place: int = -1) -> None:
        """Give a turn to the first that waits behind `place`; those before it have no use for it."""
        queue = self._waiting.get(model_id, [])
        for position, waiter in enumerate(queue):
            if waiter.place > place and not waiter.turn.done():
                del queue[position]
                waiter.turn.set_result(turn)
                return

    def wake_all(self) -> None:
        """Let every waiting job look again; a node has come, or changed its offers."""
        for queue in list(self._waiting.values()):
            for waiter in queue:
                if not waiter.turn.done():
                    waiter.turn.set_result(Turn(None))
            queue.clear()


def _given(waiter: _Waiter) -> Turn | None:
    """Return the turn that came while its waiter was ending."""
    return waiter.turn.result() if waiter.turn.done() and not waiter.turn.cancelled() else None
