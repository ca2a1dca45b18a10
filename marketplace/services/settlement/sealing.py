"""Putting an epoch together: its rows, simulated; its receipts, under one root."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from marketplace.domain.epochs import Line, Plan, plan_rows
from marketplace.domain.errors import Unavailable
from marketplace.domain.ports.chain import Batch, Chain, ChainAccount, Fault, FaultKind, LedgerState
from marketplace.domain.ports.clock import Clock
from marketplace.services.alarms import alarm
from marketplace.services.settlement.books import Snapshot, is_covered, read_snapshot
from marketplace.services.settlement.rows import batch, chunked, stored_row
from marketplace.services.settlement.terms import SettlementTerms
from marketplace.services.settlement.workshop import Workshop
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.settlement import Cut
from marketplace.storage.tables import EpochRow, SettlementRow
from tallystick.audit_secrets import audit_secret_hash
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd

Place = tuple[FaultKind, Address]


@dataclass(frozen=True, slots=True)
class Draft:
    """Rows that the Ledger would take now, and those it would not, with the reasons."""

    plan: Plan
    aside: Mapping[Place, tuple[Line, str]]


class Sealer:
    """Makes epochs. One runs at a time, under the lease."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        clock: Clock,
        terms: SettlementTerms,
        key: SigningKey,
        workshop: Workshop,
    ) -> None:
        self._database = database
        self._chain = chain
        self._clock = clock
        self._terms = terms
        self._key = key
        self._workshop = workshop

    async def seal(self, number: int, ledger: LedgerState) -> EpochRow | None:
        """Put epoch `number` together and store it; None if nothing is due.

        Raises ChainUnavailable, Unavailable if another process stored an epoch meanwhile, or what the
        treasury was to advance covers credit now.
        """
        secret = self._terms.secret(self._key, ledger.next_epoch)
        if audit_secret_hash(secret) != ledger.audit_secret_hash:
            alarm("audit_secret_unknown", epoch=number, remedy="the owner calls commitAuditSecret")
            return None
        now = self._clock.now_ms()
        snapshot = await self._database.read(lambda session: read_snapshot(session, self._terms.rules, now))
        draft = await self._draft(number, snapshot, now)
        if draft is None or draft.plan.is_empty:
            return None
        _report(number, draft.plan)
        # Later than the snapshot, so that all that its rows are made of is under this root or an earlier one.
        cut = await self._database.write(queries.cut)
        reach("settlement.cut")
        tree = await self._workshop.plant(cut)
        rows, chunks = await asyncio.to_thread(self._rows, number, draft)
        epoch = EpochRow(
            number=number,
            state="sealed",
            sealed_at=now,
            receipts_root=tree.root,
            receipt_count=tree.count,
            file_hash=bytes(32),
            chunks=chunks,
            audit_secret=secret,
            next_audit_secret=self._terms.secret(self._key, number + 1),
            gas_used=0,
            last_batch=cut.last,
            credit=snapshot.treasury_on({}).credit_after(draft.plan.payouts),
        )
        if not await self._database.write(lambda session: _store(session, epoch, rows, cut)):
            raise Unavailable(f"another process put an epoch together while epoch {number} was")
        reach("settlement.sealed")
        return epoch

    async def _draft(self, number: int, snapshot: Snapshot, now: int) -> Draft | None:
        """Return a plan that the Ledger would take, less the rows that it would not; None if none helps."""
        aside: dict[Place, tuple[Line, str]] = {}
        while True:
            # Read again after each fault: what made one row bad, like a withdrawal, may have made many so.
            on_chain = await self._chain.accounts(snapshot.addresses)
            plan = await asyncio.to_thread(self._plan, snapshot, on_chain, aside, now)
            found = await self._objection(number, plan)
            if found is None:
                return Draft(plan, aside)
            fault, line = found
            if line is None or line.address == snapshot.treasury.address:
                alarm("epoch_refused", epoch=number, reason=fault.reason)
                return None
            alarm("row_set_aside", epoch=number, account=line.address, row=fault.kind, reason=fault.reason)
            aside[(fault.kind, line.address)] = (line, fault.reason)

    def _plan(
        self,
        snapshot: Snapshot,
        on_chain: Mapping[Address, ChainAccount],
        aside: Mapping[Place, tuple[Line, str]],
        now: int,
    ) -> Plan:
        debtors = [one for one in snapshot.debtors if (FaultKind.CHARGE, one.address) not in aside]
        creditors = [one for one in snapshot.creditors if (FaultKind.PAYOUT, one.address) not in aside]
        treasury = snapshot.treasury_on(on_chain)
        return plan_rows(debtors, creditors, on_chain, treasury, self._terms.rules, now)

    async def _objection(self, number: int, plan: Plan) -> tuple[Fault, Line | None] | None:
        """Return why the Ledger would refuse the plan, and the line at fault if it is one's.

        Only the first chunk can be simulated whole. Charges do not depend on each other, so those of
        later chunks are simulated as if they came first; payouts depend on what is in the pool, which the
        plan has balanced.
        """
        lines = {(FaultKind.CHARGE, one.address): one for one in plan.charges}
        lines |= {(FaultKind.PAYOUT, one.address): one for one in plan.payouts}
        for simulated in await asyncio.to_thread(self._trials, number, plan):
            fault = await self._chain.simulate(simulated)
            match fault:
                case None:
                    continue
                case Fault(FaultKind.CHARGE, row):
                    return fault, lines[(FaultKind.CHARGE, simulated.charges[row].account)]
                case Fault(FaultKind.PAYOUT, row):
                    return fault, lines[(FaultKind.PAYOUT, simulated.payouts[row].account)]
                case _:
                    return fault, None
        return None

    def _trials(self, number: int, plan: Plan) -> list[Batch]:
        """Return the batches that are simulated."""
        rows, chunks = chunked(number, plan.charges, plan.payouts, size=self._terms.rows_per_chunk)
        parts: list[list[SettlementRow]] = [[] for _ in range(chunks)]
        for row in rows:
            if row.chunk == 0 or row.kind == FaultKind.CHARGE:
                parts[row.chunk].append(row)
        return [batch(number, 0, part, None) for part in parts if part]

    def _rows(self, number: int, draft: Draft) -> tuple[list[SettlementRow], int]:
        plan = draft.plan
        rows, chunks = chunked(number, plan.charges, plan.payouts, size=self._terms.rows_per_chunk)
        for (kind, _), (line, reason) in sorted(draft.aside.items()):
            left_out = stored_row(number, kind, replace(line, consent=None), chunk=0, position=0)
            left_out.set_aside = reason
            rows.append(left_out)
        return rows, chunks


def _store(session: Session, epoch: EpochRow, rows: Sequence[SettlementRow], cut: Cut) -> bool:
    """Store an epoch unless another was stored since the cut, whose receipts its tree would have too."""
    if not queries.store(session, epoch, cut):
        return False
    queries.add_rows(session, rows)
    queries.note_cheques(session, epoch.number)
    if not is_covered(session, rows, epoch.credit):
        raise Unavailable(
            f"what epoch {epoch.number} was to advance covers credit that was granted meanwhile"
        )
    return True


def _report(number: int, plan: Plan) -> None:
    for address, amount in plan.deferred.items():
        alarm("payout_deferred", epoch=number, account=address, amount=amount)
    for address, amount in plan.short.items():
        alarm("consumer_short", epoch=number, account=address, amount=NanoUsd(amount))
