"""A process that holds and captures until it is killed, and says what it was told.

    python -m tests.support.crashing_books URL FIRST COUNT

It prints `held N` and `captured N` after the database said so, and is killed where TALLYSTICK_FAILPOINT says.
"""

import asyncio
import sys

from marketplace.services import ledger
from marketplace.storage.database import Database
from tests.support.books import ALICE, NOW, hold, make_job, taken


def say(line: str) -> None:
    """Tell the parent, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def one_job(database: Database, number: int) -> None:
    """Hold and capture one job."""
    job = make_job(ALICE, number=number, key_id=f"{ALICE}/key")
    await database.write_short(lambda session: hold(session, job))
    say(f"held {number}")
    parts = [taken(job)]
    await database.write_short(
        lambda session: ledger.capture(
            session, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW
        )
    )
    say(f"captured {number}")


async def main(url: str, first: int, count: int) -> None:
    """Run `count` jobs, a few at once: they make ten groups or more."""
    database = await Database.open(url)
    few = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with few:
            await one_job(database, number)

    await asyncio.gather(*[one(number) for number in range(first, first + count)])
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
