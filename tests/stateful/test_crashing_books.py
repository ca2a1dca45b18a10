"""`kill -9` at any instant: every acknowledged hold and charge is there, none twice, and the books add up."""

import asyncio
import os
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.tables import JobRow
from tests.support.books import ALICE, NOW, TREASURY, USD, api_key, wallet

JOBS = 40
CHARGE = 36_000


@dataclass
class Told:
    """What the process was told before it died."""

    held: set[int] = field(default_factory=set)
    captured: set[int] = field(default_factory=set)

    def hear(self, output: bytes) -> None:
        """Add the lines of one process; a line that was cut off does not count."""
        for line in output.decode().splitlines(keepends=True):
            if line.endswith("\n"):
                what, number = line.split()
                (self.held if what == "held" else self.captured).add(int(number))


@pytest.fixture
async def url(tmp_path: Path) -> str:
    url = f"sqlite+pysqlite:///{tmp_path}/books.sqlite"

    def work(session: Session) -> None:
        ledger.ensure_treasury(session, TREASURY, NOW)
        api_key(session, wallet(session, balance=100 * USD, authorized=100 * USD))

    database = await Database.open(url)
    await database.write(work)
    await database.close()
    return url


async def run(
    url: str, first: int, *, failpoint: str = "", kill_after: float | None = None
) -> tuple[bytes, int]:
    """Run the process to its end, by itself or by a kill; return its output and exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.crashing_books",
        url,
        str(first),
        str(JOBS),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TALLYSTICK_FAILPOINT": failpoint},
    )
    assert process.stdout is not None
    heard = b""
    if kill_after is not None:
        heard = await process.stdout.readline()
        await asyncio.sleep(kill_after)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
    heard += await process.stdout.read()
    return heard, await process.wait()


async def check(url: str, told: Told) -> None:
    """Everything that was told is in the books, which add up; what hangs is given back when it expires."""

    def states(session: Session) -> dict[int, str]:
        rows = session.execute(select(JobRow.id, JobRow.state))  # type: ignore[call-overload]
        return {int.from_bytes(job_id, "big"): state for job_id, state in rows}

    database = await Database.open(url)
    found = await database.read(states)
    done = {number for number, state in found.items() if state == "done"}
    assert told.held <= found.keys()
    assert told.captured <= done
    report = await database.read(audit_books)
    assert [str(finding) for finding in report.findings] == []
    assert report.charged == CHARGE * len(done)
    await database.write(lambda session: ledger.expire_holds(session, NOW + 10**9))
    account = await database.read(lambda session: accounts.find(session, ALICE))
    assert account is not None
    assert (account.balance, account.held) == (100 * USD - CHARGE * len(done), 0)
    assert (await database.read(audit_books)).findings == ()
    await database.close()


@pytest.mark.parametrize("failpoint", ["books.group_ran", "books.group_committed"])
@pytest.mark.parametrize("turn", [1, 2, 3])
async def test_killed_around_a_commit(url: str, failpoint: str, turn: int) -> None:
    told = Told()
    output, status = await run(url, 1, failpoint=f"{failpoint}:{turn}")
    assert status == -signal.SIGKILL
    told.hear(output)
    await check(url, told)
    output, status = await run(url, 1000)
    assert status == 0
    told.hear(output)
    assert len(told.captured) >= JOBS
    await check(url, told)


@pytest.mark.slow
async def test_killed_at_random_instants_again_and_again(url: str) -> None:
    told, instants = Told(), random.Random(20)
    for first in range(1, 20 * 1000, 1000):
        output, _ = await run(url, first, kill_after=instants.uniform(0, 0.03))
        told.hear(output)
        await check(url, told)
    assert told.held
