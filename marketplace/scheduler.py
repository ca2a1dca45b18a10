"""When things happen: APScheduler calls each job at its pace, where this process holds the lease."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]

from marketplace.domain.errors import Unavailable
from marketplace.services.alarms import alarm
from marketplace.services.backoffice import ScheduledJob
from marketplace.services.leases import WorkLease

STOP_SECONDS = 10
# That a job still runs at its next time is normal here, and not worth a line each time.
logging.getLogger("apscheduler").setLevel(logging.ERROR)

log = structlog.get_logger(__name__)


class Scheduler:
    """Runs jobs until it is stopped. A job never overlaps with itself; one that fails is called again."""

    def __init__(self, jobs: Sequence[ScheduledJob], lease: WorkLease, *, lease_seconds: float) -> None:
        self._jobs = jobs
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._running: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Take the lease if it is free, and start."""
        await self._lease.renew()
        renewal = ScheduledJob("renew the lease", self._lease_seconds / 3, self._lease.renew, everywhere=True)
        for job in (renewal, *self._jobs):
            self._scheduler.add_job(
                partial(self._run, job),
                "interval",
                seconds=job.seconds,
                name=job.name,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        self._scheduler.start()

    async def stop(self) -> None:
        """Stop calling, let what runs come to its end for a while, and give the lease back."""
        self._scheduler.pause()
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_SECONDS)
        for task in self._running:
            task.cancel()
        self._scheduler.shutdown(wait=False)
        await self._lease.give_back()

    async def _run(self, job: ScheduledJob) -> None:
        if not job.everywhere and not self._lease.is_held:
            return
        # A task of its own: it is ours to wait for, and the scheduler's end does not cut it short.
        task = asyncio.ensure_future(self._try(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)

    async def _try(self, job: ScheduledJob) -> None:
        try:
            await job.run()
        except Unavailable as error:
            log.warning("job_waits", job=job.name, reason=error.message)
        except OSError as error:
            # A file that cannot be written: the disk is full, or not ours. The same work is tried again.
            alarm("machine_refused", job=job.name, error=str(error))
        except Exception as error:
            # The next run must come although this one met a bug; it is the same work again.
            log.exception("job_failed", job=job.name)
            alarm("job_failed", job=job.name, error=repr(error))
