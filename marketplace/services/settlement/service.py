"""The settlement as a whole: look how far the books and the Ledger are, and do the next thing."""

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy.orm import Session

from marketplace.domain.ports.chain import Chain, ChainBlock, LedgerState
from marketplace.domain.ports.clock import Clock
from marketplace.services.alarms import alarm
from marketplace.services.settlement.closing import close_epoch, mark_rows
from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.sealing import Sealer
from marketplace.services.settlement.sending import Courier, next_chunk, purpose
from marketplace.services.settlement.terms import SettlementTerms
from marketplace.services.settlement.workshop import MANY, Workshop
from marketplace.services.transactions import Transactions
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import EpochRow
from tallystick.protocol.ids import to_hex
from tallystick.protocol.keys import SigningKey

log = structlog.get_logger(__name__)

CLOSED = Counter("tallystick_epochs_closed_total", "Epochs that were settled on the chain.")
LAST_CLOSED = Gauge("tallystick_last_closed_epoch", "The latest epoch that was settled on the chain.")


class Settlement:
    """Settles epochs, one after the other. `step` is called under the lease, by one task at a time."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        transactions: Transactions,
        clock: Clock,
        files: EpochFiles,
        terms: SettlementTerms,
        key: SigningKey,
        *,
        many: int = MANY,
    ) -> None:
        """Epochs of `many` receipts or more are put together by a process of their own."""
        self._database = database
        self._chain = chain
        self._transactions = transactions
        self._clock = clock
        self._files = files
        self._terms = terms
        self._workshop = Workshop(database, files, terms.domain, many=many)
        self._sealer = Sealer(database, chain, clock, terms, key, self._workshop)
        self._courier = Courier(database, chain, transactions, clock, terms)
        self._looked_at = -1
        self._seen_closed: dict[int, int] = {}

    async def step(self) -> bool:
        """Do the next thing; return whether there is more to do for an epoch. Raises ChainUnavailable.

        Whatever it does can be done again after a crash.
        """
        epoch = await self._database.read(queries.unfinished)
        if epoch is None:
            return await self._begin()
        ledger = await self._chain.ledger()
        if await self._remind(ledger):
            return False
        chunk = next_chunk(ledger, epoch)
        if chunk is None:
            return not await self._close(epoch.number)
        self._seen_closed.pop(epoch.number, None)
        if epoch.state == "sealed" or not self._files.has(epoch.file_hash):
            await self._publish(epoch)
            return True
        if epoch.state == "published":
            await self._change(epoch, state="sending")
            reach("settlement.sending")
        await self._courier.send(epoch, chunk)
        return True

    async def _begin(self) -> bool:
        """Put the latest epoch that is over together, if anything is due; each is looked at once."""
        ledger, head = await self._chain.ledger(), await self._chain.head()
        number = self._terms.epochs.last_ended(head.timestamp)
        if await self._remind(ledger):
            return False
        if number is None or number < ledger.next_epoch or number <= self._looked_at:
            return False
        if ledger.chunks:
            # Part of an epoch is on the chain and not in these books: they are not the ones that sent it.
            alarm("epoch_open_without_books", epoch=ledger.next_epoch, chunks=ledger.chunks)
            return False
        epoch = await self._sealer.seal(number, ledger)
        self._looked_at = number
        return epoch is not None

    async def _remind(self, ledger: LedgerState) -> bool:
        """Send epochs again that the chain has lost after they were closed, deeper than the confirmations;
        return whether there are any. The one that is on its way builds on them."""
        lost = await self._database.read(lambda session: queries.closed_from(session, ledger.next_epoch))
        for number in lost:
            sent = await self._transactions.broadcast_again(f"settle/{number}/")
            alarm("closed_epoch_lost", epoch=number, transactions=sent)
        return bool(lost)

    async def _publish(self, epoch: EpochRow) -> None:
        file_hash = await self._workshop.publish(epoch)
        reach("settlement.file_written")
        if not await self._change(epoch, state="published", file_hash=file_hash):
            return
        reach("settlement.published")
        log.info("epoch_published", epoch=epoch.number, file=to_hex(file_hash), receipts=epoch.receipt_count)

    async def _close(self, number: int) -> bool:
        """Enter the closed epoch into the books once it is deep enough; return whether it was."""
        # Read after the Ledger was: from its closing on, an epoch's rows stay as they are.
        epoch = await self._database.read(lambda session: queries.epoch(session, number))
        if epoch is None or epoch.state == "closed":
            return True
        head = await self._chain.head()
        found = await self._transactions.outcome(purpose(epoch.number, epoch.chunks - 1))
        transaction = None if found is None else found[0]
        block = self._first_seen(epoch, head) if found is None else found[1].block_number
        if head.number - block < self._terms.confirmations:
            return False
        gas_used = 0 if found is None else found[1].gas_used
        for chunk in range(epoch.chunks - 1):
            earlier = await self._transactions.outcome(purpose(epoch.number, chunk))
            gas_used += 0 if earlier is None else earlier[1].gas_used
        now = self._clock.now_ms()
        reach("settlement.before_close")
        await self._mark(epoch)
        await self._database.write(
            lambda session: close_epoch(
                session, epoch.number, now=now, transaction=transaction, block=block, gas_used=gas_used
            )
        )
        reach("settlement.closed")
        CLOSED.inc()
        LAST_CLOSED.set(epoch.number)
        log.info("epoch_closed", epoch=epoch.number, block=block, gas_used=gas_used)
        return True

    async def _mark(self, epoch: EpochRow) -> None:
        """Enter what accounts were charged and credited, by chunks; the same again changes nothing."""
        for chunk in range(epoch.chunks):

            def work(session: Session, chunk: int = chunk) -> None:
                mark_rows(
                    session, queries.rows_of_chunk(session, epoch.number, chunk), sealed_at=epoch.sealed_at
                )

            await self._database.write(work)

    def _first_seen(self, epoch: EpochRow, head: ChainBlock) -> int:
        # The closing went through under a hash that was replaced in the books: wait from when it was noticed.
        return self._seen_closed.setdefault(epoch.number, head.number)

    async def _change(self, epoch: EpochRow, **values: object) -> bool:
        """Change an epoch unless its rows are others than when it was read; return whether."""
        return await self._database.write(
            lambda session: (
                queries.is_still(session, epoch) and queries.change_epoch(session, epoch.number, **values)
            )
        )
