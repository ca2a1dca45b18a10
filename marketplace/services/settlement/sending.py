"""Sending a published epoch chunk by chunk, and planning the rest anew where the Ledger would refuse it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.epochs import NOTHING, Line, Treasury, balance, recharged
from marketplace.domain.ports.chain import BatchRefused, Chain, Fault, FaultKind, LedgerState
from marketplace.domain.ports.clock import Clock
from marketplace.services.alarms import alarm
from marketplace.services.settlement.books import is_covered, read_snapshot
from marketplace.services.settlement.rows import chunk_batch, chunked, line_of, sent_rows
from marketplace.services.settlement.terms import SettlementTerms
from marketplace.services.transactions import Transactions
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries import transactions
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd

log = structlog.get_logger(__name__)


def purpose(epoch: int, chunk: int) -> str:
    """Return the name under which a chunk's transaction is stored."""
    return f"settle/{epoch}/{chunk}"


def next_chunk(ledger: LedgerState, epoch: EpochRow) -> int | None:
    """Return which chunk of an epoch the Ledger takes next, or None if it has closed the epoch."""
    if ledger.next_epoch > epoch.number:
        return None
    return ledger.chunks if ledger.next_epoch == epoch.number else 0


@dataclass(frozen=True, slots=True)
class Rest:
    """The rows of an epoch from a chunk on, without the treasury's and the one at fault; and that one."""

    charges: list[Line]
    payouts: list[Line]
    paid_out: int
    to_pay: int
    """What payouts from there on were to move, the one at fault among them. The treasury's is in neither."""
    may_charge: bool
    """Whether the treasury's charge is among these rows, so that it can be another one."""
    fault_row: SettlementRow | None


class Courier:
    """Sends epochs. One runs at a time, under the lease."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        transactions: Transactions,
        clock: Clock,
        terms: SettlementTerms,
    ) -> None:
        self._database = database
        self._chain = chain
        self._transactions = transactions
        self._clock = clock
        self._terms = terms

    async def send(self, epoch: EpochRow, chunk: int) -> None:
        """Bring chunk `chunk` one step further; the Ledger says how many it has. Raises ChainUnavailable."""
        if chunk >= epoch.chunks:
            alarm("epoch_has_no_such_chunk", epoch=epoch.number, chunk=chunk, chunks=epoch.chunks)
            return
        rows = await self._database.read(lambda session: queries.rows_of_chunk(session, epoch.number, chunk))
        try:
            await self._transactions.push(
                purpose(epoch.number, chunk),
                chunk_batch(epoch, chunk, rows),
                # What the Ledger gets of a chunk has to be what the books say of it.
                while_=lambda session: queries.is_still(session, epoch),
            )
        except BatchRefused as refused:
            await self._amend(epoch, chunk, refused.fault)

    async def _amend(self, epoch: EpochRow, chunk: int, fault: Fault) -> None:
        """Plan the rows from `chunk` on anew, without the row at fault; the epoch is published again then.

        Not if the Ledger took another transaction for the chunk meanwhile: its rows are settled as they are.
        """
        ledger = await self._chain.ledger()
        if chunk != next_chunk(ledger, epoch):
            return
        rows = await self._database.read(lambda session: _still_rows(session, epoch))
        if rows is None:
            return
        now = self._clock.now_ms()
        snapshot = await self._database.read(lambda session: read_snapshot(session, self._terms.rules, now))
        rest = _rest(rows, chunk, fault)
        lines = {*(one.address for one in rest.charges), *(one.address for one in rest.payouts)}
        on_chain = await self._chain.accounts(sorted(lines | set(snapshot.addresses)))
        fresh = replace(
            rest,
            charges=[recharged(one, on_chain.get(one.address, NOTHING)) for one in rest.charges],
            payouts=[replace(one, before=on_chain.get(one.address, NOTHING).earned) for one in rest.payouts],
        )
        treasury = snapshot.treasury_on(on_chain)
        treasury = replace(treasury, owed=NanoUsd(max(0, treasury.owed - rest.paid_out)))
        charges, payouts, deferred = balance(
            [one for one in fresh.charges if one.moves > 0],
            [one for one in fresh.payouts if one.moves > 0],
            treasury,
            pool=ledger.pool,
            may_charge=rest.may_charge,
        )
        planned, chunks = chunked(
            epoch.number, charges, payouts, size=self._terms.rows_per_chunk, first=chunk
        )
        if rest.fault_row is None and not _differ(rows, planned, chunk):
            alarm("epoch_refused", epoch=epoch.number, chunk=chunk, reason=fault.reason)
            return
        credit = _credit(epoch, rest, payouts, treasury)
        replaced = await self._database.write(
            lambda session: _replace(session, epoch, chunk, chunks, planned, rest.fault_row, fault, credit)
        )
        if replaced:
            self._report(epoch.number, rest, fault, deferred, _cut(rest.charges, fresh.charges))
            reach("settlement.amended")

    def _report(
        self,
        number: int,
        rest: Rest,
        fault: Fault,
        deferred: Mapping[Address, int],
        short: Mapping[Address, int],
    ) -> None:
        if rest.fault_row is None:
            log.warning("epoch_balanced_again", epoch=number, reason=fault.reason)
        else:
            address = rest.fault_row.address
            alarm("row_set_aside", epoch=number, account=address, row=fault.kind, reason=fault.reason)
        for account, amount in deferred.items():
            alarm("payout_deferred", epoch=number, account=account, amount=amount)
        for account, amount in short.items():
            alarm("consumer_short", epoch=number, account=account, amount=amount)


def _still_rows(session: Session, epoch: EpochRow) -> Sequence[SettlementRow] | None:
    """Return the rows that the fault was found in; None if another process has put others in their place."""
    now = queries.epoch(session, epoch.number)
    return queries.rows_of(session, epoch.number) if now and queries.has_same_rows(now, epoch) else None


def _rest(rows: Sequence[SettlementRow], chunk: int, fault: Fault) -> Rest:
    open_rows = [row for row in sent_rows(rows) if row.chunk >= chunk]
    at_fault = [
        row
        for row in sorted(open_rows, key=lambda row: row.position)
        if row.chunk == chunk and row.kind == fault.kind
    ]
    fault_row = at_fault[fault.row] if fault.kind is not FaultKind.BATCH else None
    if fault_row is not None and fault_row.account_id == TREASURY_ID:
        # The treasury's row follows from the others; it is made anew from what the chain has now.
        fault_row = None
    kept = [row for row in open_rows if row is not fault_row and row.account_id != TREASURY_ID]
    return Rest(
        charges=[line_of(row) for row in kept if row.kind == FaultKind.CHARGE],
        payouts=[line_of(row) for row in kept if row.kind == FaultKind.PAYOUT],
        paid_out=sum(
            row.amount - row.before
            for row in sent_rows(rows)
            if row.chunk < chunk and row.kind == FaultKind.PAYOUT and row.account_id != TREASURY_ID
        ),
        to_pay=sum(
            row.amount - row.before
            for row in open_rows
            if row.kind == FaultKind.PAYOUT and row.account_id != TREASURY_ID
        ),
        may_charge=not any(
            row.chunk < chunk and row.kind == FaultKind.CHARGE and row.account_id == TREASURY_ID
            for row in sent_rows(rows)
        ),
        fault_row=fault_row,
    )


def _cut(planned: Sequence[Line], fresh: Sequence[Line]) -> dict[Address, int]:
    """Return by how much charges are lower than they were planned: the Ledger would refuse the rest now."""
    lower = ((one.address, one.amount - now.amount) for one, now in zip(planned, fresh, strict=True))
    return {address: amount for address, amount in lower if amount > 0}


def _credit(epoch: EpochRow, rest: Rest, payouts: Sequence[Line], treasury: Treasury) -> NanoUsd:
    """Return the credit that the epoch settles with other payouts from a chunk on than `rest` has.

    An advance that is past was counted on what was to be settled then, which is less only by what is not
    paid now.
    """
    paid = sum(line.moves for line in payouts if line.address != treasury.address)
    unpaid = max(0, rest.to_pay - paid)
    return NanoUsd(max(treasury.credit_after(payouts), (epoch.credit or 0) - unpaid))


def _differ(rows: Sequence[SettlementRow], planned: Sequence[SettlementRow], chunk: int) -> bool:
    def facts(some: Sequence[SettlementRow]) -> set[tuple[str, str, int]]:
        return {(row.kind, row.address, row.amount) for row in some}

    return facts([row for row in sent_rows(rows) if row.chunk >= chunk]) != facts(planned)


def _replace(
    session: Session,
    epoch: EpochRow,
    chunk: int,
    chunks: int,
    planned: list[SettlementRow],
    fault_row: SettlementRow | None,
    fault: Fault,
    credit: NanoUsd,
) -> bool:
    """Put rows in place of those from `chunk` on, unless they may reach the Ledger; return whether."""
    number = epoch.number
    if not queries.is_still(session, epoch) or transactions.is_live(session, purpose(number, chunk)):
        return False
    if not is_covered(session, planned, credit):
        return False
    queries.drop_rows(session, number, chunk)
    queries.add_rows(session, planned)
    queries.note_cheques(session, number)
    if fault_row is not None:
        fault_row.set_aside, fault_row.chunk, fault_row.position = fault.reason, 0, 0
        fault_row.consent_spent, fault_row.consent_signature = None, None
        queries.add_rows(session, [fault_row])
    return queries.change_epoch(session, number, state="sealed", chunks=chunks, credit=credit)
