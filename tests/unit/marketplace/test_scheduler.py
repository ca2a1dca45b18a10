"""Scheduled work runs where the lease is, goes on after failures, and stops."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.ports.clock import ManualClock
from marketplace.scheduler import Scheduler
from marketplace.services.alarms import ALARMS
from marketplace.services.backoffice import ScheduledJob
from marketplace.services.leases import WorkLease
from marketplace.storage.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    yield opened
    await opened.close()


def lease(database: Database, clock: ManualClock, holder: str, **options: Any) -> WorkLease:
    return WorkLease(database, clock, holder=holder, lasts_ms=9_000, **options)


async def test_one_of_two_has_the_lease_and_the_other_gets_it_when_it_runs_out(database: Database) -> None:
    clock = ManualClock()
    first, second = lease(database, clock, "first"), lease(database, clock, "second")
    assert await first.renew()
    assert not await second.renew()
    clock.advance(5_000)
    assert first.is_held
    assert await first.renew()
    clock.advance(8_999)
    assert not await second.renew()
    clock.advance(1)
    assert await second.renew()
    assert not await first.renew()
    assert second.is_held
    assert not first.is_held


async def test_a_lease_is_not_trusted_in_its_last_third(database: Database) -> None:
    clock = ManualClock()
    mine = lease(database, clock, "mine")
    assert not mine.is_held
    await mine.renew()
    clock.advance(5_999)
    assert mine.is_held
    clock.advance(1)
    assert not mine.is_held


async def test_a_lease_that_is_given_back_is_free_at_once(database: Database) -> None:
    clock = ManualClock()
    first, second = lease(database, clock, "first"), lease(database, clock, "second")
    await first.renew()
    await first.give_back()
    assert not first.is_held
    assert await second.renew()


async def test_ten_at_once_and_one_gets_it(database: Database) -> None:
    clock = ManualClock()
    rivals = [lease(database, clock, f"process {number}") for number in range(10)]
    assert sum(await asyncio.gather(*(rival.renew() for rival in rivals))) == 1


async def test_a_clock_that_jumped_back_does_not_keep_a_dead_holders_lease(database: Database) -> None:
    clock, passed = ManualClock(), [0.0]
    await lease(database, clock, "killed").renew()
    clock.jump(-3_600_000)
    mine = lease(database, clock, "mine", monotonic=lambda: passed[0])
    assert not await mine.renew()
    passed[0] += 8.9
    assert not await mine.renew()
    passed[0] += 0.1
    assert await mine.renew()
    assert mine.is_held


async def test_a_clock_that_jumped_back_takes_no_lease_from_one_that_lives(database: Database) -> None:
    clock, passed = ManualClock(), [0.0]
    first = lease(database, clock, "first", monotonic=lambda: passed[0])
    second = lease(database, clock, "second", monotonic=lambda: passed[0])
    await first.renew()
    clock.jump(-3_600_000)
    assert not first.is_held
    for _ in range(10):
        assert await first.renew()
        assert first.is_held
        assert not await second.renew()
        passed[0] += 3
        clock.advance(3_000)


async def test_a_clock_that_jumped_forward_leaves_one_holder(database: Database) -> None:
    clock = ManualClock()
    first, second = lease(database, clock, "first"), lease(database, clock, "second")
    await first.renew()
    clock.jump(3_600_000)
    assert not first.is_held
    assert await second.renew()
    assert not await first.renew()
    assert second.is_held


async def test_jobs_run_where_the_lease_is_and_everywhere_where_they_say_so(database: Database) -> None:
    clock, ran = ManualClock(), []

    async def note(what: str) -> None:
        ran.append(what)

    await lease(database, clock, "somebody else").renew()
    jobs = [
        ScheduledJob("mine", 0.02, lambda: note("mine")),
        ScheduledJob("everywhere", 0.02, lambda: note("everywhere"), everywhere=True),
    ]
    scheduler = Scheduler(jobs, lease(database, clock, "me"), lease_seconds=9)
    await scheduler.start()
    await wait_for(lambda: ran.count("everywhere") >= 2)
    await scheduler.stop()
    assert "mine" not in ran
    clock.advance(9_000)
    scheduler = Scheduler(jobs, lease(database, clock, "me"), lease_seconds=9)
    await scheduler.start()
    await wait_for(lambda: ran.count("mine") >= 2)
    await scheduler.stop()
    await asyncio.sleep(0.05)
    count = len(ran)
    await asyncio.sleep(0.1)
    assert len(ran) == count


async def test_a_job_that_fails_is_called_again_and_a_bug_is_an_alarm(database: Database) -> None:
    before, calls = ALARMS.labels("job_failed")._value.get(), []

    async def fail() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ChainUnavailable("The chain does not answer.")
        if len(calls) == 2:
            raise ZeroDivisionError

    scheduler = Scheduler(
        [ScheduledJob("fails", 0.02, fail)], lease(database, ManualClock(), "me"), lease_seconds=9
    )
    await scheduler.start()
    await wait_for(lambda: len(calls) >= 3)
    await scheduler.stop()
    assert ALARMS.labels("job_failed")._value.get() == before + 1


async def test_a_full_disk_is_said_and_the_work_tried_again(database: Database) -> None:
    before, calls = ALARMS.labels("machine_refused")._value.get(), []

    async def fail() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    scheduler = Scheduler(
        [ScheduledJob("writes", 0.02, fail)], lease(database, ManualClock(), "me"), lease_seconds=9
    )
    await scheduler.start()
    await wait_for(lambda: len(calls) >= 2)
    await scheduler.stop()
    assert ALARMS.labels("machine_refused")._value.get() == before + 1


async def test_a_slow_job_does_not_overlap_with_itself(database: Database) -> None:
    running, most, calls = 0, 0, 0

    async def slow() -> None:
        nonlocal running, most, calls
        running, calls = running + 1, calls + 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1

    scheduler = Scheduler(
        [ScheduledJob("slow", 0.02, slow)], lease(database, ManualClock(), "me"), lease_seconds=9
    )
    await scheduler.start()
    await wait_for(lambda: calls >= 3)
    await scheduler.stop()
    assert most == 1


async def wait_for(is_so, seconds: float = 20) -> None:  # type: ignore[no-untyped-def]
    """Return when `is_so()`; fail after some seconds."""
    for _ in range(round(seconds / 0.02)):
        if is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")


async def test_what_runs_when_it_stops_comes_to_its_end(database: Database) -> None:
    started, ended = asyncio.Event(), []

    async def slow() -> None:
        started.set()
        await asyncio.sleep(0.3)
        ended.append(1)

    scheduler = Scheduler(
        [ScheduledJob("slow", 0.02, slow)], lease(database, ManualClock(), "me"), lease_seconds=9
    )
    await scheduler.start()
    await started.wait()
    await scheduler.stop()
    assert ended == [1]
