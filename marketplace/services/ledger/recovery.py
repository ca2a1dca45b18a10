"""Receipts of settled epochs enter books that have forgotten them.

The chain has moved their money already, so nothing is refused here: what is entered is what was settled.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind, EntryKind
from marketplace.domain.jobs import JobState
from marketplace.domain.receipts import TakenReceipt
from marketplace.services.ledger.captures import store
from marketplace.services.ledger.deposits import ensure_wallet
from marketplace.storage.queries import accounts, jobs, keys, receipts
from marketplace.storage.queries.jobs import J
from marketplace.storage.queries.receipts import R
from marketplace.storage.tables import JobRow
from tallystick.protocol.receipts import Receipt, receipt_charge

FORGOTTEN_ID: Final = "forgotten"
"""The account of consumers on credit of whom a settled receipt does not say who they are."""
RECEIPTS_A_READ: Final = 500


def ensure_forgotten(session: Session, now: int) -> None:
    """Make the account for what forgotten consumers on credit have spent, if it is not there."""
    accounts.create(session, FORGOTTEN_ID, AccountKind.EMAIL, now, status="suspended")


def payer_of(session: Session, receipt: Receipt, *, is_failed_part: bool) -> str:
    """Return the account that pays a settled receipt, FORGOTTEN_ID for one that cannot be told."""
    return TREASURY_ID if is_failed_part else _consumer_of(session, receipt)


def enter_settled(session: Session, taken: TakenReceipt, *, is_failed_part: bool, now: int) -> None:
    """Store a receipt that is under a closed epoch's root and not in the books; its job is closed or unknown.

    Who pays is charged beyond any hold. It is not matured.
    """
    receipt = taken.signed.receipt
    charge, account_id = receipt_charge(receipt), _consumer_of(session, receipt)
    job = jobs.find(session, receipt.job_id)
    if job is None:
        job = _job_of(receipt, account_id)
        session.add(job)
    if is_failed_part:
        lines, payer_id = [(TREASURY_ID, EntryKind.FAILED_PART, -charge)], TREASURY_ID
    else:
        lines, payer_id = [(account_id, EntryKind.CHARGE, -charge)], account_id
        accounts.settle_hold(session, account_id, 0, charge)
        if job.key_id:
            keys.settle_hold(session, job.key_id, 0, charge)
        job.state, job.error = JobState.DONE.value, None
        job.finish = receipt.finish
        job.charge += charge
        job.hold = max(job.hold, job.charge)
        job.output_tokens += receipt.output_tokens
    session.flush()
    store(session, [taken], lines, account_id=account_id, payer_id=payer_id, now=now)


def mature_settled(session: Session, ids: Sequence[bytes], batch: int, now: int) -> None:
    """Put receipts into a batch, and mature those that have not: the epoch that they are in is settled."""
    spent: defaultdict[str, int] = defaultdict(int)
    earned: defaultdict[str, int] = defaultdict(int)
    for first in range(0, len(ids), RECEIPTS_A_READ):
        some = ids[first : first + RECEIPTS_A_READ]
        raw = select(R.c.payer_id, R.c.operator_id, R.c.charge, R.c.fee).where(
            R.c.id.in_(some), R.c.matured.is_(False)
        )
        for payer_id, operator_id, charge, fee in session.execute(raw):
            spent[payer_id] += charge
            earned[operator_id] += charge - fee
            earned[TREASURY_ID] += fee
    receipts.set_matured(session, ids, batch)
    for account_id in sorted(spent.keys() | earned.keys()):
        accounts.mature(session, account_id, spent=spent[account_id], earned=earned[account_id], now=now)


def _consumer_of(session: Session, receipt: Receipt) -> str:
    """Return the consumer whose job it was: by the books, or by the address that its node signed for."""
    owner = session.scalar(select(J.c.account_id).where(J.c.id == receipt.job_id))
    if owner is not None:
        return str(owner)
    account = ensure_wallet(session, receipt.account, receipt.finished_at)
    return FORGOTTEN_ID if account.id == TREASURY_ID else account.id


def _job_of(receipt: Receipt, account_id: str) -> JobRow:
    """Return what can be told of a job by one of its receipts."""
    return JobRow(
        id=receipt.job_id,
        account_id=account_id,
        key_id="",
        model_id=receipt.model_id,
        model_name="",
        state=JobState.FAILED.value,
        hold=receipt_charge(receipt),
        charge=0,
        input_price=receipt.input_price,
        output_price=receipt.output_price,
        fee_bps=receipt.fee_bps,
        prompt_tokens=receipt.prompt_tokens,
        error="forgotten",
        accepted_at=receipt.started_at,
        expires_at=receipt.finished_at,
        finished_at=receipt.finished_at,
    )
