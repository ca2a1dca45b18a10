"""Choosing the node for a job, or waiting for one: routing decides, this acts."""

import asyncio
import random
from collections.abc import Callable

from marketplace.domain.history import History
from marketplace.domain.jobs import AcceptedJob, JobRequest
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import NodeView, ProviderLink
from marketplace.domain.routing import Ranking, Standing, Tried, Wanted, can_serve, rank
from marketplace.services.slots import Slots, Turn
from tallystick.protocol.ids import Address, ModelId


class Chooser:
    """Ranks the connected nodes and claims a slot of the best."""

    def __init__(
        self,
        link: ProviderLink,
        slots: Slots,
        history: History,
        clock: Clock,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._link = link
        self._slots = slots
        self._history = history
        self._clock = clock
        self._chance = chance

    def look(self, wanted: Wanted, tried: Tried = ()) -> Ranking:
        """Return who could do the job now."""
        now = self._clock.now_ms()

        def standing(node: Address) -> Standing:
            return Standing(
                self._slots.load(node, wanted.model_id), self._history.of(node).rests_until_ms > now
            )

        return rank(
            self._link.serving(wanted.model_id), wanted, standing=standing, chance=self._chance, tried=tried
        )

    async def claim(
        self, wanted: Wanted, *, tried: Tried = (), patience: float, hopeful: bool
    ) -> NodeView | None:
        """Return the best node with its slot claimed, None if there is none after `patience` seconds.

        `hopeful` waits also while no node serves the model at all: one may come back.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        place: int | None = None
        turn: Turn | None = None
        while True:
            ranking = self.look(wanted, tried)
            best = ranking.free[0] if ranking.free else None
            if best is not None:
                self._slots.claim(best.address, wanted.model_id)
            if turn is not None and place is not None:
                self._pass_on(turn, wanted.model_id, place)
            left = until - loop.time()
            if best is not None or left <= 0 or not (ranking.full or hopeful):
                return best
            if place is None:
                if not self._slots.has_queue_room(wanted.model_id):
                    return None
                place = self._slots.place()
            turn = await self._slots.wait(wanted.model_id, left, place)

    def _pass_on(self, turn: Turn, model_id: ModelId, place: int) -> None:
        """Let the next in line look, if the node whose slot was freed has room still."""
        for node in self._link.serving(model_id):
            if node.address == turn.node:
                ask = node.asks[model_id]
                has_room = self._slots.load(node.address, model_id) < ask.slots
                if has_room and can_serve(node, ask, Wanted(model_id, 0, 0)):
                    self._slots.pass_on(model_id, turn, place)

    async def claim_next(self, job: AcceptedJob, *, tried: Tried, patience: float) -> NodeView | None:
        """Return a node that goes on with `job` at no higher price, its slot claimed, or None."""
        return await self.claim(wanted_next(job), tried=tried, patience=patience, hopeful=True)

    def free(self, node: NodeView | None, model_id: ModelId) -> None:
        """Give a claimed slot back."""
        if node is not None:
            self._slots.free(node.address, model_id)


def wanted_of(request: JobRequest) -> Wanted:
    """Return what a request needs of its first node."""
    return Wanted(
        model_id=request.model_id,
        prompt_tokens=len(request.prompt_ids),
        output_tokens=request.parameters.max_tokens,
        max_input_price=request.wishes.max_input_price,
        max_output_price=request.wishes.max_output_price,
        region=request.wishes.region,
    )


def wanted_next(job: AcceptedJob) -> Wanted:
    """Return what an accepted job needs of a later node: it must ask no more than was agreed."""
    return Wanted(
        model_id=job.request.model_id,
        prompt_tokens=len(job.request.prompt_ids),
        output_tokens=job.request.parameters.max_tokens,
        max_input_price=job.input_price,
        max_output_price=job.output_price,
        region=job.request.wishes.region,
    )
