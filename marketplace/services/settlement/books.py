"""What the books say when an epoch is put together, read in one snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.epochs import NOTHING, Creditor, Debtor, RowRules, Treasury
from marketplace.domain.errors import Broken
from marketplace.domain.ports.chain import ChainAccount, Consent
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import Account, SettlementRow
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Who is due by the books, and how the treasury stands."""

    debtors: Sequence[Debtor]
    creditors: Sequence[Creditor]
    treasury: Account
    sums: queries.Sums

    @property
    def addresses(self) -> list[Address]:
        """All addresses whose accounts on the chain matter."""
        parties = {one.address for one in self.debtors} | {one.address for one in self.creditors}
        return sorted(parties | {Address(str(self.treasury.address))})

    def treasury_on(self, on_chain: Mapping[Address, ChainAccount]) -> Treasury:
        """Return the treasury's part in the plan."""
        account, sums = self.treasury, self.sums
        address = Address(str(account.address))
        return Treasury(
            account_id=account.id,
            address=address,
            on_chain=on_chain.get(address, NOTHING),
            free=NanoUsd(account.balance - account.requested - account.granted),
            credit=NanoUsd(account.granted - sums.credit_unspent - sums.credit_immature),
            owed=NanoUsd(sums.owed),
        )


def read_snapshot(session: Session, rules: RowRules, now: int) -> Snapshot:
    """Return what the books say at `now` (ms). Raises Broken without a treasury."""
    waited_since = now - rules.longest_wait_ms
    treasury = accounts.find(session, TREASURY_ID)
    if treasury is None or treasury.address is None:
        raise Broken("there is no treasury account to balance an epoch with")
    return Snapshot(
        debtors=[_debtor(row) for row in queries.debtors(session, rules.row_threshold, waited_since)],
        creditors=[_creditor(row) for row in queries.creditors(session, rules.row_threshold, waited_since)],
        treasury=treasury,
        sums=queries.sums(session),
    )


def is_covered(session: Session, rows: Sequence[SettlementRow], credit: int | None) -> bool:
    """Return whether the treasury can still advance what is in `rows`, with so much credit settled by it.

    Until the end of the work nobody is granted more.
    """
    advance = queries.advance_of(rows)
    treasury = accounts.lock(session, TREASURY_ID)
    if treasury is None or not advance:
        return treasury is not None
    return treasury.balance - treasury.requested - treasury.granted + (credit or 0) >= advance


def _debtor(row: Account) -> Debtor:
    consent = None
    if row.consented and row.consent_signature is not None:
        consent = Consent(NanoUsd(row.consented), row.consent_signature)
    return Debtor(
        account_id=row.id,
        address=Address(str(row.address)),
        matured=NanoUsd(row.spent_matured),
        consent=consent,
        is_leaving=queries.leaves(row),
        accruing_since=row.spent_since,
    )


def _creditor(row: Account) -> Creditor:
    return Creditor(row.id, Address(str(row.address)), NanoUsd(row.earned), row.earned_since)
