"""A coordinator's back office as a process of its own, for tests that kill it.

    python -m tests.support.back_office_process FOLDER

FOLDER has `deployment.json` and `books.sqlite`. It reads the chain, matures, signs cheques and settles
until the last epoch that is over is in the books, making blocks as it goes, and ends with status 0.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from marketplace.chain.evm import EvmChain
from marketplace.chain.sender import EvmSender
from marketplace.domain.epochs import EpochClock
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.acknowledgements import BondWatch, Cheques
from marketplace.services.deposits import ChainWatcher
from marketplace.services.maturity import mature_due
from marketplace.services.settlement import EpochFiles, Settlement, SettlementTerms
from marketplace.services.transactions import Transactions
from marketplace.storage.database import Database
from tallystick.anvil import anvil_key
from tallystick.deployment import Deployment
from tallystick.evm.connection import connected
from tallystick.protocol.frames import AnyFrame
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import COORDINATOR, USD

CONFIRMATIONS = 2
ROWS_PER_CHUNK = 2
STEPS = 100


class NobodyConnected:
    """A hub without nodes."""

    def nodes(self) -> Sequence[object]:
        """Return none."""
        return ()

    async def send(self, operator: Address, frame: AnyFrame) -> int:
        """Reach nobody."""
        return 0


async def run(folder: Path) -> None:
    """Do all scheduled work until nothing is left to do."""
    deployment = Deployment.load(folder / "deployment.json")
    key = anvil_key(COORDINATOR)
    async with connected(deployment.rpc_url) as connection:
        database = await Database.open(f"sqlite+pysqlite:///{folder}/books.sqlite")
        chain, sender = EvmChain(connection, deployment), EvmSender(connection, deployment, key)
        terms = SettlementTerms(
            domain=deployment.ledger_domain,
            epochs=EpochClock(deployment.genesis, deployment.epoch_length),
            treasury=deployment.owner,
            row_threshold=NanoUsd(USD),
            longest_wait_epochs=3,
            rows_per_chunk=ROWS_PER_CHUNK,
            confirmations=CONFIRMATIONS,
        )
        clock = ManualClock((await chain.head()).timestamp * 1000)
        watcher = ChainWatcher(database, chain, clock, confirmations=CONFIRMATIONS, first_block=0)
        transactions = Transactions(database, chain, sender, clock, confirmations=CONFIRMATIONS)
        files = EpochFiles(folder / "epochs")
        settlement = Settlement(database, chain, transactions, clock, files, terms, key)
        link = NobodyConnected()
        cheques = Cheques(database, link, clock, key, terms.domain, terms.promised_epoch)  # type: ignore[arg-type]
        bond = BondWatch(database, chain, key.address)
        for _ in range(STEPS):
            await watcher.poll()
            await mature_due(database, clock)
            await cheques.sign_due((await bond.look()).bond)
            if not await settlement.step():
                break
            await connection.rpc("anvil_mine", "0x1")
        else:
            raise SystemExit(f"not settled after {STEPS} steps")
        await database.close()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
