"""One epoch, built and settled in a process of its own, so that its memory and processor time are its own.

While it works, other things go on as in a coordinator: a heartbeat on the event loop, small durable writes.
"""

import argparse
import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from marketplace.chain.evm import EvmChain
from marketplace.chain.sender import EvmSender
from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.epochs import EpochClock
from marketplace.domain.ports.clock import SystemClock
from marketplace.services.audit_chain import audit_chain
from marketplace.services.deposits import ChainWatcher
from marketplace.services.settlement import EpochFiles, EpochProofs, Settlement, SettlementTerms
from marketplace.services.transactions import Transactions
from marketplace.settings import Settings
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow
from tallystick.anvil import anvil_key
from tallystick.deployment import Deployment
from tallystick.evm import Connection
from tallystick.evm.connection import connected
from tallystick.protocol.merkle import verify

COORDINATOR: Final = 1
CONFIRMATIONS: Final = 1
HEARTBEAT_SECONDS: Final = 0.005
WRITE_SECONDS: Final = 0.05


@dataclass
class Company:
    """What else goes on: how long the event loop stood still, and how long small writes took; seconds."""

    stalls: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)

    async def beat(self) -> None:
        """Wake up again and again, and note how much too late."""
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self.stalls.append(time.perf_counter() - asked - HEARTBEAT_SECONDS)

    async def write(self, database: Database) -> None:
        """Do a small durable write again and again, and note how long it takes."""
        while True:
            asked = time.perf_counter()
            await database.write(lambda session: accounts.change(session, TREASURY_ID, status="active"))
            self.writes.append(time.perf_counter() - asked)
            await asyncio.sleep(WRITE_SECONDS)

    def told(self) -> dict[str, float]:
        """Return the figures so far, and begin anew."""
        stalls, writes = sorted(self.stalls) or [0.0], sorted(self.writes) or [0.0]
        self.stalls, self.writes = [], []
        return {
            "loop_stall_most": stalls[-1],
            "loop_stall_p99": stalls[len(stalls) * 99 // 100],
            "write_most": writes[-1],
            "write_p99": writes[len(writes) * 99 // 100],
        }

    @asynccontextmanager
    async def around(self, database: Database) -> AsyncIterator[None]:
        """Keep going while the block runs."""
        tasks = [asyncio.create_task(self.beat()), asyncio.create_task(self.write(database))]
        yield
        for task in tasks:
            task.cancel()


class Phases:
    """Measures one part after the other."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self.found: dict[str, dict[str, float]] = {}
        self._start()

    def _start(self) -> None:
        self._company.told()
        self._wall, self._cpu = time.perf_counter(), _cpu()

    def end(self, name: str) -> None:
        """What ran since the last end was this part."""
        self.found[name] = {
            "wall": time.perf_counter() - self._wall,
            "cpu": _cpu() - self._cpu,
            "memory_mb": memory_mb(),
            **self._company.told(),
        }
        self._start()


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory_mb() -> float:
    """Return the most memory that this process and the largest of its children that ended ever had, added."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


async def settle_one(folder: Path, deployment: Deployment) -> dict[str, Any]:
    """Return the figures of the one epoch that the books in `folder` give."""
    defaults = Settings.model_validate({})
    database = await Database.open(f"sqlite+pysqlite:///{folder}/books.sqlite")
    async with connected(deployment.rpc_url) as connection:
        chain, clock = EvmChain(connection, deployment), SystemClock()
        watcher = ChainWatcher(
            database, chain, clock, confirmations=CONFIRMATIONS, first_block=deployment.deployed_block
        )
        files = EpochFiles(folder / "epochs")
        terms = SettlementTerms(
            domain=deployment.ledger_domain,
            epochs=EpochClock(deployment.genesis, deployment.epoch_length),
            treasury=deployment.owner,
            row_threshold=defaults.row_threshold,
            longest_wait_epochs=defaults.longest_wait_epochs,
            rows_per_chunk=defaults.rows_per_chunk,
            confirmations=CONFIRMATIONS,
        )
        key = anvil_key(COORDINATOR)
        sender = EvmSender(connection, deployment, key)
        transactions = Transactions(database, chain, sender, clock, confirmations=CONFIRMATIONS)
        settlement = Settlement(database, chain, transactions, clock, files, terms, key)
        company = Company()
        async with company.around(database):
            phases = Phases(company)
            await watcher.poll()
            phases.end("read the chain")
            await _settle(settlement, database, connection, phases)
            epoch = await database.read(queries.last_sealed)
            if epoch is None:
                raise RuntimeError("nothing was settled")
            await _prove(database, files, epoch, phases)
        await connection.rpc("anvil_mine", hex(CONFIRMATIONS + 1))
        await watcher.poll()
        # A consent that was settled is a right on the chain, of which no event tells the books.
        found = await audit_chain(database, chain)
        findings = [str(one) for one in found if one.rule != "the right on the chain"]
        told = {
            "epoch": epoch.number,
            "receipts": epoch.receipt_count,
            "chunks": epoch.chunks,
            "gas": epoch.gas_used,
            "file": str(files.path(epoch.file_hash)),
            "file_bytes": files.path(epoch.file_hash).stat().st_size,
            "phases": phases.found,
            "findings": findings,
            **await database.read(lambda session: _rows(session, epoch)),
        }
    await database.close()
    return told


async def _settle(settlement: Settlement, database: Database, connection: Connection, phases: Phases) -> None:
    if not await settlement.step():
        raise RuntimeError("the books had nothing to settle")
    phases.end("seal")
    await settlement.step()
    phases.end("file")
    while await settlement.step():
        await connection.rpc("anvil_mine", "0x1")
    if await database.read(queries.unfinished) is not None:
        raise RuntimeError("the epoch was not closed")
    phases.end("send")


async def _prove(database: Database, files: EpochFiles, epoch: EpochRow, phases: Phases) -> None:
    proofs = EpochProofs(database, files)
    ids = await database.read(
        lambda session: list(queries.receipt_ids_of(session, queries.cut_of(session, epoch)))
    )
    for name, place in (("first proof", 0), ("next proof", epoch.receipt_count // 2)):
        phases.end("pause")
        found = await proofs.inclusion(epoch.number, ids[place])
        phases.end(name)
        if found is None or not verify(found.root, ids[place], found.proof):
            raise RuntimeError("a proof does not hold")
    del phases.found["pause"]


def _rows(session: Session, epoch: EpochRow) -> dict[str, Any]:
    rows = queries.rows_of(session, epoch.number)
    charges = [row for row in rows if row.kind == "charge" and row.account_id != TREASURY_ID]
    return {
        "charges": len(charges),
        "consents": sum(row.consent_signature is not None for row in charges),
        "payouts": sum(row.kind == "payout" for row in rows),
        "set_aside": sum(row.set_aside is not None for row in rows),
        "moved": sum(row.amount - row.before for row in charges),
    }


def main() -> None:
    """Settle, and write the figures to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("deployment", type=Path)
    options = parser.parse_args()
    told = asyncio.run(settle_one(options.folder, Deployment.load(options.deployment)))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
