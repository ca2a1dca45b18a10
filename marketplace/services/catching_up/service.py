"""Which epochs the books have missed, where their files are, and one after the other into the books."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.errors import Broken, Refused
from marketplace.domain.ports.chain import Cashed, Chain
from marketplace.domain.ports.stake import StakeBook
from marketplace.domain.ports.witness import ClosedEpoch, Witness
from marketplace.services import ledger
from marketplace.services.catching_up.entering import Entered, Evidence, enter_epoch, known_receipts
from marketplace.services.deposits import ChainWatcher
from marketplace.services.maturity import release_orphans
from marketplace.services.settlement.files import EpochFiles
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.queries.settlement import P
from tallystick.audit_secrets import audit_secret, audit_secret_hash
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.epochfile import RECEIPT_BYTES, EpochFile
from tallystick.protocol.ids import Address, to_hex
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.merkle import root_of
from tallystick.protocol.money import NanoUsd

UNKNOWN_SECRET: Final = bytes(32)
"""In place of the next audit secret where the key that makes it is not here any more."""
BringFile = Callable[[int, bytes, int], Awaitable[None]]
"""Try to bring the file of an epoch (number, hash, bytes at most) into the folder of epoch files."""
ROWS_BYTES: Final = 1 << 30
"""More than the rows of any epoch take in its file; how many receipts it has is on the chain."""


class EpochFileMissing(Refused):
    """A closed epoch's file is nowhere, or damaged wherever it is."""

    code = "epoch_file_missing"


class OtherMarket(Refused):
    """The books know epochs that the chain does not have so."""

    code = "other_market"


@dataclass(frozen=True, slots=True)
class Market:
    """The Ledger, when its epoch 0 began (seconds), its first block, and how deep a block has to be."""

    domain: Domain
    genesis: int
    first_block: int
    confirmations: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What the books have learned."""

    epochs: tuple[Entered, ...]
    beyond: Mapping[Address, NanoUsd]
    """Operators who have cashed cheques for work that the books have lost, and for how much of it."""


class CatchUp:
    """Brings books up to their chain. Its user owns the books alone; no coordinator runs on them."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        witness: Witness,
        stakes: StakeBook,
        watcher: ChainWatcher,
        files: EpochFiles,
        market: Market,
        key: SigningKey,
        bring: BringFile,
    ) -> None:
        self._database = database
        self._chain = chain
        self._witness = witness
        self._stakes = stakes
        self._watcher = watcher
        self._files = files
        self._market = market
        self._key = key
        self._bring = bring

    async def run(self) -> CaughtUp:
        """Enter every confirmed epoch that the books have missed; cut off anywhere, it goes on where it was.

        Raises EpochFileMissing before anything of an epoch is entered, OtherMarket, CreditUncovered,
        TreasuryShort, ChainUnavailable.
        """
        await release_orphans(self._database)
        head = await self._watcher.poll()
        last = head.number - self._market.confirmations
        closed = await self._witness.closed_epochs(self._market.first_block, last)
        missing = _missing(closed, await self._database.read(_closed_in_books))
        files = {number: await self._file(number, closed[number]) for number in missing}
        cheques = await self._cheques(last) if missing else ()
        entered = []
        for number in missing:
            evidence = await self._evidence(number, closed, files[number], cheques)
            entered.append(
                await self._database.write(
                    lambda session, evidence=evidence: enter_epoch(session, evidence, self._key)  # type: ignore[misc]
                )
            )
        beyond = await self._database.write(lambda session: _note_cheques(session, cheques))
        return CaughtUp(tuple(entered), beyond)

    async def _file(self, number: int, closed: ClosedEpoch) -> EpochFile:
        file = await asyncio.to_thread(self._usable, closed.file_hash)
        if file is None:
            most = closed.receipt_count * RECEIPT_BYTES + ROWS_BYTES
            await self._bring(number, closed.file_hash, most)
            file = await asyncio.to_thread(self._usable, closed.file_hash)
        if file is None:
            flaw = "is damaged" if self._files.has(closed.file_hash) else "is not here"
            raise EpochFileMissing(
                f"the file of epoch {number} {flaw}. Whoever has downloaded it can give it (tallystick "
                f"epoch download {number}); name it, its folder or a coordinator's address with --from. Its "
                f"hash is {to_hex(closed.file_hash)}; it belongs to {self._files.path(closed.file_hash)}"
            )
        ids = file.receipt_ids
        is_same = (file.rows.domain, file.rows.epoch) == (self._market.domain, number)
        if not is_same or len(ids) != closed.receipt_count or root_of(ids) != closed.receipts_root:
            raise OtherMarket(f"the file of epoch {number} has other receipts than those under its root")
        return file

    def _usable(self, file_hash: bytes) -> EpochFile | None:
        """Return what the file says that is here, None if it is not, or was cut off or changed."""
        try:
            return self._files.load(file_hash) if self._files.has(file_hash) else None
        except Broken:
            return None

    async def _cheques(self, last: int) -> Sequence[Cashed]:
        events = await self._chain.events(self._market.first_block, last)
        return [event for event in events if isinstance(event, Cashed)]

    async def _evidence(
        self, number: int, closed: Mapping[int, ClosedEpoch], file: EpochFile, cheques: Sequence[Cashed]
    ) -> Evidence:
        this = closed[number]
        block = await self._chain.block(this.place.block_number)
        known = await self._database.read(lambda session: known_receipts(session, file.receipt_ids))
        nodes = {
            one.signed.receipt.node
            for place, one in enumerate(file.receipts())
            if file.receipt_ids[place] not in known
        }
        where = (this.place.block_number, this.place.log_index)
        before = [one for one in cheques if (one.place.block_number, one.place.log_index) < where]
        return Evidence(
            number=number,
            closed=this,
            closed_at=(0 if block is None else block.timestamp) * 1000,
            file=file,
            operators={node: (await self._stakes.node_stake(node)).operator for node in sorted(nodes)},
            cashed={one.account: one.credited for one in before},
            next_secret=self._next_secret(number, closed),
        )

    def _next_secret(self, number: int, closed: Mapping[int, ClosedEpoch]) -> bytes:
        """Return the secret that was committed to: the key's, or the one that was revealed since."""
        wanted = closed[number].next_audit_secret_hash
        later = min((other for other in closed if other > number), default=None)
        revealed = UNKNOWN_SECRET if later is None else closed[later].audit_secret
        market = self._market
        ours = audit_secret(
            self._key, chain_id=market.domain.chain_id, genesis=market.genesis, first_epoch=number + 1
        )
        return next(
            (secret for secret in (ours, revealed) if audit_secret_hash(secret) == wanted), UNKNOWN_SECRET
        )


def _missing(closed: Mapping[int, ClosedEpoch], known: Mapping[int, bytes]) -> list[int]:
    """Return the epochs that are to be entered, in order. Raises OtherMarket."""
    for number, file_hash in known.items():
        if number not in closed or closed[number].file_hash != file_hash:
            raise OtherMarket(
                f"the books have closed epoch {number} with the file {to_hex(file_hash)}, and the Ledger has "
                "not: these are the books of another market, or of a chain that was replaced"
            )
    latest = max(known, default=-1)
    missing = sorted(closed.keys() - known.keys())
    if missing and missing[0] < latest:
        raise OtherMarket(f"the books know epoch {latest} and not epoch {missing[0]} before it")
    return missing


def _closed_in_books(session: Session) -> dict[int, bytes]:
    rows = session.execute(select(P.c.number, P.c.file_hash).where(P.c.state == "closed"))
    return {int(number): file_hash for number, file_hash in rows}


def _note_cheques(session: Session, cheques: Sequence[Cashed]) -> dict[Address, NanoUsd]:
    """Note what cheques have credited; return what is more than the books know that was earned."""
    beyond = {}
    for account_id, credited in {one.account: one.credited for one in cheques}.items():
        account = accounts.by_address(session, account_id)
        earned = 0 if account is None else account.earned
        if account is not None and earned >= credited:
            ledger.mark_payout_settled(session, account.id, credited)
        else:
            beyond[account_id] = NanoUsd(credited - earned)
    return beyond
