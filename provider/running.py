"""The jobs that a node has in hand: which it takes, which it refuses, and how they end early."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from provider.jobs import Bench, RunningJob
from provider.plan import Accept, Refuse, decide
from provider.serving import ServedModel
from tallystick.protocol.frames import AnyFrame, Cancel, Failed, Job
from tallystick.protocol.ids import ModelId
from tallystick.protocol.money import format_usd
from tallystick.protocol.receipts import Finish, Receipt, receipt_earning

log = structlog.get_logger()

Send = Callable[[AnyFrame], None]
HAND_OVER_SECONDS: Final = 10.0
"""How long an engine may take to let go of a job before the node leaves without a receipt for it."""


class RunningJobs:
    """Jobs by attempt; each runs in a task of its own."""

    def __init__(self, models: Mapping[ModelId, ServedModel], bench: Bench, max_fee_bps: int) -> None:
        self.done = 0
        self._models = models
        self._bench = bench
        self._max_fee_bps = max_fee_bps
        self._jobs: dict[tuple[bytes, int], tuple[RunningJob, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def offered(self, job: Job, send: Send, *, draining: bool) -> None:
        """Run `job`, or refuse it; what comes of it goes through `send`."""
        place = (job.job_id, job.attempt)
        model = self._models.get(ModelId(job.model_id))
        decision = decide(
            job,
            None if model is None else model.view(self._count(model.id)),
            draining=draining,
            known=place in self._jobs or self._bench.evidence.knows(*place),
            max_fee_bps=self._max_fee_bps,
        )
        match decision:
            case Accept():
                self._start(job, self._models[ModelId(job.model_id)], send)
            case Refuse(code=code, message=message):
                log.info("job_refused", job=job.job_id.hex(), code=code, reason=message)
                send(Failed(job_id=job.job_id, attempt=job.attempt, code=code, message=message))

    def cancel(self, frame: Cancel) -> None:
        """End an attempt with a receipt for what was sent; one that has ended already needs nothing."""
        if found := self._jobs.get((frame.job_id, frame.attempt)):
            found[0].stop(Finish.CANCELLED)

    async def finish(self, seconds: float) -> None:
        """Return when all jobs have ended; those that still run after `seconds` are handed over."""
        tasks = [task for _, task in self._jobs.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        self.hand_over()
        if left := [task for _, task in self._jobs.values()]:
            await asyncio.wait(left, timeout=HAND_OVER_SECONDS)

    def hand_over(self) -> None:
        """End all jobs now, each with a receipt for what was sent."""
        for job, _ in self._jobs.values():
            log.info("handing_over", job=job.job.job_id.hex())
            job.stop(Finish.HANDED_OVER)

    async def abandon(self) -> None:
        """Stop everything without a receipt: whoever offered it is gone and gives it to others."""
        tasks = [task for _, task in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, model_id: ModelId) -> int:
        return sum(1 for running, _ in self._jobs.values() if running.job.model_id == model_id)

    def _start(self, job: Job, model: ServedModel, send: Send) -> None:
        place = (job.job_id, job.attempt)
        running = RunningJob(job, model.engine, self._bench, send)
        task = asyncio.create_task(self._run(running, send), name=f"job-{job.job_id.hex()[:8]}")
        self._jobs[place] = (running, task)
        task.add_done_callback(lambda _: self._jobs.pop(place, None))

    async def _run(self, running: RunningJob, send: Send) -> None:
        job = running.job
        try:
            receipt = await running.run()
            if receipt is not None:
                self.done += 1
                _log_done(receipt)
        except Exception:  # one job's bug must not take the node's other jobs with it
            log.exception("job_broke", job=job.job_id.hex())
            send(Failed(job_id=job.job_id, attempt=job.attempt, code="engine", message="the job broke"))


def _log_done(receipt: Receipt) -> None:
    log.info(
        "job_done",
        job=receipt.job_id.hex()[:16],
        finish=Finish(receipt.finish).name.lower(),
        prompt_tokens=receipt.prompt_tokens,
        output_tokens=receipt.output_tokens,
        seconds=(receipt.finished_at - receipt.started_at) / 1000,
        earned_usd=format_usd(receipt_earning(receipt)),
    )
