"""After every closed epoch: is what was published what the chain has, and is all of our work in it?

The check needs nobody's word. The file must hash to what `EpochClosed` says, its receipts must be under the
root that the Ledger has, the payout on the chain must reach what was acknowledged for that epoch, and every
receipt that the coordinator took for that epoch must be there.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import Final

import aiohttp
import structlog

from provider.config import ProviderConfig
from provider.evidence import Cheque, Evidence, Kept
from provider.trust import http_session
from provider.wallet import NoChain, Operator, operator_of
from tallystick.evm import EvmError
from tallystick.protocol.epochfile import RECEIPT_BYTES, BadEpochFile, decode_epoch, epoch_hash
from tallystick.protocol.ids import ReceiptId, to_hex
from tallystick.protocol.merkle import root_of
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.protocol.receipt_ids import ReceiptIds

log = structlog.get_logger()
LOOKS_UNTIL_WITHHELD: Final = 24
"""About two minutes: longer than a coordinator takes to come back from a crash."""
POLL_SECONDS: Final = 5.0
PATIENCE: Final = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
"""A large file takes longer than any fixed time on a slow line; one that does not move is given up."""
MOST_BYTES_OF_ROWS: Final = 256 * 1024 * 1024
"""For a million accounts and more; so a coordinator cannot fill the disk."""
BLOCKS_PER_LOOK: Final = 2_000
"""Public nodes refuse to search more at once."""


class NotPublished(Exception):
    """The coordinator does not give the file of a closed epoch, now."""


@dataclass(frozen=True, slots=True)
class Closed:
    """An epoch as the chain closed it, in block `block`."""

    epoch: int
    root: bytes
    receipt_count: int
    file_hash: bytes
    block: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the check of one epoch found. `settled` are our receipts that are in it."""

    settled: tuple[ReceiptId, ...]
    findings: tuple[str, ...]


def examine(
    closed: Closed,
    data: bytes | mmap | None,
    ours: Sequence[Kept],
    earned: NanoUsd,
    cheques: Sequence[Cheque],
) -> Outcome:
    """Return what is wrong with an epoch.

    `data` is its file, which may be mapped, `ours` our receipts that were not found in an epoch yet, `earned`
    what the chain has credited our operator, ever.
    """
    paid = _underpaid(closed, earned, cheques)
    if data is None:
        withheld = f"epoch {closed.epoch} is closed, and the coordinator does not give its file"
        return Outcome((), (withheld, *paid))
    if epoch_hash(data) != closed.file_hash:
        wrong = f"the file of epoch {closed.epoch} is not the one whose hash is on the chain"
        return Outcome((), (wrong, *paid))
    try:
        file = decode_epoch(data)
    except BadEpochFile as error:
        return Outcome((), (f"the file of epoch {closed.epoch} cannot be read: {error}", *paid))
    findings = []
    published = file.receipt_ids
    if len(published) != closed.receipt_count or root_of(published) != closed.root:
        findings.append(f"the receipts in the file of epoch {closed.epoch} are not those under its root")
    settled = tuple(kept.id for kept in ours if kept.id in published)
    return Outcome(settled, (*findings, *_missing(closed, ours, published), *paid))


def _missing(closed: Closed, ours: Sequence[Kept], published: ReceiptIds) -> list[str]:
    return [
        f"receipt {to_hex(kept.id)} (${format_usd(kept.earning)}) was taken for epoch {kept.taken_epoch}, "
        "which is closed, and is not settled"
        for kept in ours
        if kept.taken_epoch is not None and kept.taken_epoch <= closed.epoch and kept.id not in published
    ]


def _underpaid(closed: Closed, earned: NanoUsd, cheques: Sequence[Cheque]) -> list[str]:
    cheque = cashable(cheques, closed.epoch)
    if cheque is None or cheque.earned <= earned:
        return []
    short = NanoUsd(cheque.earned - earned)
    return [
        f"the chain credits ${format_usd(earned)}, the coordinator acknowledged ${format_usd(cheque.earned)} "
        f"by epoch {cheque.epoch}; get the ${format_usd(short)} from its bond with: tallystick provider cash"
    ]


def cashable(cheques: Sequence[Cheque], closed_epoch: int) -> Cheque | None:
    """Return the cheque for the most among those whose epoch is closed."""
    due = [cheque for cheque in cheques if cheque.epoch <= closed_epoch]
    return max(due, key=lambda cheque: cheque.earned, default=None)


class Watch:
    """Looks at each epoch that closes while the agent runs, and at those that closed since it last did.

    A node's first look begins at the head: nothing of its own is in an epoch that closed before.
    """

    def __init__(self, config: ProviderConfig, evidence: Evidence) -> None:
        self._config = config
        self._evidence = evidence
        self._from_block: int | None = None
        self._failed_looks: Counter[int] = Counter()

    async def run(self) -> None:
        """Check epochs for ever; what is wrong is logged as an error and kept."""
        while True:
            try:
                async with operator_of(self._config) as operator, http_session(self._config.ca_file) as http:
                    while True:
                        await self.check_new(operator, http)
                        await asyncio.sleep(POLL_SECONDS)
            except (EvmError, NoChain, NotPublished, aiohttp.ClientError, TimeoutError) as error:
                log.warning("watch_interrupted", reason=str(error))
                await asyncio.sleep(POLL_SECONDS)

    async def check_new(self, operator: Operator, http: aiohttp.ClientSession) -> list[Outcome]:
        """Check the epochs that closed since the last look, and return what was found.

        Raises NotPublished, EvmError, ClientError; then the epoch is looked at again the next time.
        """
        head = await operator.connection.block()
        if head is None:
            return []
        outcomes: list[Outcome] = []
        first = self._first_block(head.number)
        while first <= head.number:
            last = min(head.number, first + BLOCKS_PER_LOOK - 1)
            for closed in await self._closed_in(operator, first, last):
                outcomes.append(await self._check(closed, operator, http))
            first = self._from_block = last + 1
        return outcomes

    def _first_block(self, head: int) -> int:
        if self._from_block is None:
            watched = self._evidence.last_watched()
            self._from_block = head if watched is None else watched[1]
        return self._from_block

    async def _closed_in(self, operator: Operator, first: int, last: int) -> list[Closed]:
        topic = operator.ledger.artifact.topic("EpochClosed")
        ledger = {operator.ledger.address: operator.ledger.artifact}
        found = [
            Closed(
                epoch=one.fields["epoch"],
                root=one.fields["receiptsRoot"],
                receipt_count=one.fields["receiptCount"],
                file_hash=one.fields["fileHash"],
                block=one.block_number,
            )
            for one in await operator.connection.logs(ledger, first, last, [topic])
        ]
        watched = self._evidence.last_watched()
        return [closed for closed in found if watched is None or closed.epoch > watched[0]]

    async def _check(self, closed: Closed, operator: Operator, http: aiohttp.ClientSession) -> Outcome:
        data = await self._file_of(closed, http)
        *_, earned = await operator.ledger.read("accountOf", self._config.operator)
        cheques = self._evidence.cheques(self._config.operator)
        # A large epoch's tree takes seconds, in which heartbeats must go on.
        outcome = await asyncio.to_thread(
            examine, closed, data, self._evidence.unsettled(), NanoUsd(earned), cheques
        )
        for receipt_id in outcome.settled:
            await self._evidence.settled(receipt_id, closed.epoch)
        for finding in outcome.findings:
            log.error("epoch_is_wrong", epoch=closed.epoch, finding=finding)
        verdict = "wrong" if outcome.findings else "good"
        await self._evidence.watched(closed.epoch, closed.block, verdict, outcome.findings)
        log.info("epoch_checked", epoch=closed.epoch, verdict=verdict, ours=len(outcome.settled))
        return outcome

    async def _file_of(self, closed: Closed, http: aiohttp.ClientSession) -> bytes | mmap | None:
        """Return an epoch's file, mapped; None once it was asked for often enough to say that it is withheld.

        Raises NotPublished, ClientError or TimeoutError before that.
        """
        epoch = closed.epoch
        try:
            return await self._download(closed, http)
        except (NotPublished, aiohttp.ClientError, TimeoutError):
            self._failed_looks[epoch] += 1
            if self._failed_looks[epoch] < LOOKS_UNTIL_WITHHELD:
                raise
            return None

    async def _download(self, closed: Closed, http: aiohttp.ClientSession) -> bytes | mmap:
        epoch, most = closed.epoch, closed.receipt_count * RECEIPT_BYTES + MOST_BYTES_OF_ROWS
        url = f"{self._config.coordinator.rstrip('/')}/epochs/{epoch}"
        headers = {"Accept": "application/octet-stream"}
        async with http.get(url, headers=headers, timeout=PATIENCE) as answer:
            if answer.status != 200:
                raise NotPublished(f"epoch {epoch} is closed, but {url} answers {answer.status}")
            # Into a file without a name, which goes when it is not used any more: memory may be too small.
            with tempfile.TemporaryFile() as file:
                size = 0
                async for piece in answer.content.iter_chunked(1 << 20):
                    size += len(piece)
                    if size > most:
                        raise NotPublished(f"{url} sends more than {most} bytes; epoch {epoch} has fewer")
                    await asyncio.to_thread(file.write, piece)
                file.flush()
                return mmap(file.fileno(), 0, access=ACCESS_READ) if size else b""
