"""The whole audit: the books against themselves, every receipt, the epochs' files, and the chain.

    audit_books      every balance against journal, jobs and receipts
    audit_receipts   every receipt against what its node signed, every consent against its signature
    audit_epochs     every epoch against its rows, its receipts and its file
    audit_closings   … and against what the Ledger said when it closed it
    audit_chain      every account against the Ledger's
    audit_events     every deposit and withdrawal against the chain's events

A coordinator may run on the books meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from marketplace.domain.ports.chain import Chain
from marketplace.domain.ports.witness import Witness
from marketplace.services.audit_books import Finding, Report, audit_books
from marketplace.services.audit_chain import audit_chain
from marketplace.services.audit_epochs import audit_closings, audit_epochs
from marketplace.services.audit_events import audit_events, audit_transactions
from marketplace.services.audit_receipts import audit_consents, audit_receipts
from marketplace.services.settlement.files import EpochFiles
from marketplace.storage.database import Database
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.ids import Address


@dataclass(frozen=True, slots=True)
class Chainside:
    """The chain, its past, and the block from which on it concerns the market."""

    chain: Chain
    witness: Witness
    first_block: int


async def audit(database: Database, files: EpochFiles, domain: Domain, side: Chainside | None) -> Report:
    """Return everything that does not add up; without a `side`, what can be told without the chain.

    Raises ChainUnavailable.
    """
    report = await database.read(audit_books)
    takers: set[Address] = set()

    def work(session: Session) -> list[Finding]:
        return [
            *audit_receipts(session, domain, takers),
            *audit_consents(session, domain),
            *audit_transactions(session),
        ]

    findings = [*report.findings, *await database.read(work), *await audit_epochs(database, files, domain)]
    if side is not None:
        findings += await _against_chain(database, side, takers)
    return replace(report, findings=tuple(findings))


async def _against_chain(database: Database, side: Chainside, takers: set[Address]) -> Sequence[Finding]:
    strangers = [taker for taker in sorted(takers) if not await side.witness.was_coordinator(taker)]
    return [
        *(
            Finding(f"the key {taker}", "receipts were taken by the coordinator", detail="it never was that")
            for taker in strangers
        ),
        *await audit_closings(database, side.chain, side.witness, side.first_block),
        *await audit_chain(database, side.chain),
        *await audit_events(database, side.chain, side.first_block),
    ]
