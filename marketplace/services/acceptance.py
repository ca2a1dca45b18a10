"""Accepting a job: the most that it can cost is set aside first, at prices that are fixed from then on."""

import asyncio
import os
from collections.abc import Callable

from marketplace.domain.attempts import room
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import BadRequest, NoNode, NotAuthenticated, NotFound, Unavailable
from marketplace.domain.jobs import AcceptedJob, JobRequest
from marketplace.domain.ports.link import NodeView
from marketplace.domain.sizes import check_prompt_fits
from marketplace.services.choosing import wanted_of
from marketplace.services.dispatch import Desk, Driver
from marketplace.services.pricing import worst_case
from marketplace.services.running import RunningJob
from tallystick.protocol.commitments import job_seed, parameters_hash
from tallystick.protocol.ids import JobId, ModelId
from tallystick.protocol.money import format_price

FindModel = Callable[[ModelId], CatalogModel | None]


class Market:
    """Takes requests and runs them; `close` lets what runs finish."""

    def __init__(
        self,
        desk: Desk,
        *,
        find_model: FindModel,
        fee_bps: int,
        has_bond_room: Callable[[], bool] = lambda: True,
        accepts: bool = True,
    ) -> None:
        self._desk = desk
        self._find_model = find_model
        self._fee_bps = fee_bps
        self._has_bond_room = has_bond_room
        self._accepts = accepts
        self._drivers: dict[asyncio.Task[None], Driver] = {}
        self._jobs: dict[asyncio.Task[None], RunningJob] = {}
        self._closing = False

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._drivers)

    async def submit(self, request: JobRequest) -> RunningJob:
        """Hold what the job can cost, start it, and return it.

        Raises NoNode, BadRequest, NotFound, InsufficientBalance, KeyCapReached, ConsentNeeded, Forbidden or
        Unavailable; nothing is held then, and nothing runs.
        """
        model = self._model(request)
        if self._closing:
            raise Unavailable("The coordinator is stopping.")
        if not self._accepts:
            raise Unavailable("This market takes no new jobs; it settles what it has done, and closes.")
        if not self._has_bond_room():
            raise Unavailable(
                "The coordinator's bond covers no more work until an epoch is settled.", retry_after=30
            )
        node = await self._node(request)
        try:
            running = RunningJob(self._accept(request, node))
        except BaseException:  # whatever happens, a slot that no job uses is free; nothing is swallowed
            self._desk.chooser.free(node, request.model_id)
            raise
        driver = Driver(self._desk, running, model, node)
        task = asyncio.create_task(driver.run())
        self._drivers[task] = driver
        self._jobs[task] = running
        task.add_done_callback(self._drivers.pop)
        task.add_done_callback(self._jobs.pop)
        try:
            await asyncio.shield(running.ready)
        except asyncio.CancelledError:
            await running.aclose()
            raise
        return running

    async def end_jobs_of(self, key_id: str) -> None:
        """End what runs with a key that was revoked; what was made by then is charged."""
        for running in [one for one in self._jobs.values() if one.accepted.request.key_id == key_id]:
            await running.dismiss(
                NotAuthenticated(
                    "This API key was revoked in the middle of the answer; what was made by then is charged.",
                    code="revoked_api_key",
                )
            )

    async def call_off(self, running: RunningJob, reason: str) -> bool:
        """End a job, which is not charged then; return False if its answer is whole, and charged, already."""
        for task in [task for task, one in self._jobs.items() if one is running]:
            self._drivers[task].abort(reason)
            await asyncio.wait({task})
        return not running.is_whole

    async def close(self, timeout: float = 30.0) -> None:
        """Take no more jobs, let the running ones finish for `timeout` seconds, then end the rest unpaid."""
        self._closing = True
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=timeout)
        for driver in list(self._drivers.values()):
            driver.abort("the coordinator is stopping")
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=10)
        await self._desk.late.close()

    def _model(self, request: JobRequest) -> CatalogModel:
        model = self._find_model(request.model_id)
        if model is None:
            raise NotFound(
                f"The model `{request.model_name}` does not exist.", code="model_not_found", param="model"
            )
        if room(request.parameters, model, len(request.prompt_ids)) < 1:
            raise BadRequest(
                f"This model's context is {model.context_length} tokens; the prompt has "
                f"{len(request.prompt_ids)}, which leaves no room for an answer.",
                code="context_length_exceeded",
                param="messages",
            )
        check_prompt_fits(request.prompt_ids, request.prompt_text)
        return model

    async def _node(self, request: JobRequest) -> NodeView:
        """Return the best node, its slot claimed. Raises NoNode."""
        wanted = wanted_of(request)
        node = await self._desk.chooser.claim(wanted, patience=self._desk.rules.queue, hopeful=False)
        if node is None:
            raise self._no_node(request)
        return node

    def _no_node(self, request: JobRequest) -> NoNode:
        name = request.model_name
        serving = self._desk.link.serving(request.model_id)
        if self._desk.chooser.look(wanted_of(request)).full:
            return NoNode(f"All nodes that serve `{name}` are busy. Try again in a moment.", retry_after=1)
        asks = [
            ask
            for node in serving
            if node.eligible and not node.draining and not (ask := node.asks[request.model_id]).paused
        ]
        if not asks:
            return NoNode(f"No node serves `{name}` now. Try again later.")
        cheapest = min(asks, key=lambda ask: (ask.output_price, ask.input_price))
        return NoNode(
            f"No node serves `{name}` within your price cap or region. The cheapest asks "
            f"${format_price(cheapest.input_price)} per million input and "
            f"${format_price(cheapest.output_price)} per million output tokens."
        )

    def _accept(self, request: JobRequest, node: NodeView) -> AcceptedJob:
        ask = node.asks[request.model_id]
        prompt_tokens = len(request.prompt_ids) or len(request.prompt_text.encode())
        noise = os.urandom(96)
        seed = noise[64:]
        if request.caller_seed is not None:
            hashed = parameters_hash(request.parameters)
            seed = job_seed(request.payer, request.model_id, hashed, request.caller_seed)
        return AcceptedJob(
            id=JobId(noise[:32]),
            request=request,
            seed=seed,
            salt=noise[32:64],
            input_price=ask.input_price,
            output_price=ask.output_price,
            fee_bps=self._fee_bps,
            hold=worst_case(prompt_tokens, request.parameters, ask.input_price, ask.output_price),
            accepted_at_ms=self._desk.clock.now_ms(),
        )
