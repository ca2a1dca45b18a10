"""`kill -9` at every fail point, under load: each charge that a client was told stays, and nothing is held.

One market lives through all of it. Each start is the recovery from the kill before, and is armed with the
next fail point.
"""

import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from marketplace.chain.evm import EvmChain
from marketplace.chain.witness import EvmWitness
from marketplace.services.audit import Chainside, audit
from marketplace.services.settlement.files import EpochFiles
from marketplace.storage.database import Database
from marketplace.storage.engines import open_reader, open_writer
from scripts.benches.crash.checks import Books, look
from scripts.benches.crash.coordinators import PATIENCE, Coordinators, coordinators
from scripts.benches.crash.load import Crowd, Record, open_consumers, until
from scripts.benches.crash.stage import Stage, a_stage
from tests.support.kills import KILLED_UNDER_LOAD

pytestmark = [
    pytest.mark.anvil,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    # Agents end here as if they were killed, in the middle of whatever they do.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

QUICK = {"TALLYSTICK_FAILOVER_SECONDS": "0.3", "TALLYSTICK_QUEUE_SECONDS": "0.3"}
"""Nothing is waited for that is not killed."""


@contextlib.asynccontextmanager
async def books(stage: Stage) -> AsyncIterator[Database]:
    database = Database(open_writer(stage.books_url), open_reader(stage.books_url))
    try:
        yield database
    finally:
        await database.close()


async def seen(stage: Stage, record: Record, began: float) -> Books:
    told = list(record.charges)
    async with books(stage) as database:
        return await database.read(lambda session: look(session, told, int(began * 1000)))


async def killed(made: Coordinators, stage: Stage, point: str) -> int | None:
    """Let agents work until the coordinator has died; where nothing else helps, they vanish in mid-answer."""
    status = None
    while status is None:
        async with stage.agents():
            status = await made.ended(3 if "release" in point else PATIENCE)
        assert status is not None or "release" in point, f"{point} was not reached"
        if status is None:
            status = await made.ended(2)
    return status


async def test_a_kill_at_every_fail_point_costs_nobody_anything(tmp_path: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    record, problems = Record(), []
    async with a_stage(tmp_path, epoch_seconds=2) as stage, coordinators(stage, **QUICK) as made:
        await made.start()
        consumers = await open_consumers(stage, wallets=2, on_credit=1, leaving=1)
        await stage.mine_every(2)
        assert await made.end(signal.SIGTERM) == 0
        async with Crowd(stage, consumers, record, clients=4).asking():
            for point in KILLED_UNDER_LOAD:
                await made.start(point)
                if await made.ended(0) is None:
                    problems += (await seen(stage, record, made.began)).problems
                assert await killed(made, stage, point) == -signal.SIGKILL, point
        await made.start()
        async with stage.agents():
            assert await until(lambda: _is_settled(stage, record, made.began), PATIENCE)
            problems += [str(one) for one in await _audited(stage)]
        assert await made.end(signal.SIGTERM) == 0
    assert problems == []
    assert len(record.charges) > len(KILLED_UNDER_LOAD)


async def _is_settled(stage: Stage, record: Record, began: float) -> bool:
    return (await seen(stage, record, began)).is_settled


async def _audited(stage: Stage) -> tuple[object, ...]:
    place = stage.deployment
    side = Chainside(
        EvmChain(stage.connection, place), EvmWitness(stage.connection, place), place.deployed_block
    )
    async with books(stage) as database:
        files = EpochFiles(stage.data_dir / "epochs")
        return (await audit(database, files, place.ledger_domain, side)).findings
