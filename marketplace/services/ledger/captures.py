"""The end of a hold: what the signed receipts charge is taken, once, and who made it earns it."""

from collections.abc import Sequence

import msgspec
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, EntryKind
from marketplace.domain.errors import Broken, Conflict, MarketError, NotFound, Refused
from marketplace.domain.jobs import JobState
from marketplace.domain.receipts import TakenReceipt
from marketplace.services.ledger.deposits import ensure_wallet
from marketplace.services.ledger.holds import close_unpaid, give_back
from marketplace.storage.queries import accounts, entries, jobs, receipts
from marketplace.storage.tables import JobRow
from tallystick.protocol.ids import JobId
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.protocol.receipts import Receipt, receipt_charge, receipt_fee_up

_encode = msgspec.msgpack.Encoder().encode


def capture(
    session: Session,
    job_id: JobId,
    taken: Sequence[TakenReceipt],
    *,
    finish: int,
    prompt_tokens: int,
    output_tokens: int,
    now: int,
) -> NanoUsd:
    """Charge the consumer what `taken` add up to, give the rest of the hold back, and return the charge.

    The receipts, the operators' earnings and the market's fee are stored with it. Raises Conflict if the
    job is closed already, NotFound if there is none, Broken if the receipts charge more than was held;
    nothing has changed then.
    """
    charge = _total(job_id, taken)
    held = jobs.close(
        session,
        job_id,
        JobState.DONE,
        now=now,
        charge=charge,
        finish=finish,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    if held is None:
        raise _not_accepted(session, job_id)
    if charge > held.hold:
        raise Broken(
            f"job {job_id.hex()} charges ${format_usd(charge)}, ${format_usd(NanoUsd(held.hold))} is held"
        )
    give_back(session, held, charge=charge)
    lines = [(held.account_id, EntryKind.CHARGE, -charge)]
    store(session, taken, lines, account_id=held.account_id, payer_id=held.account_id, now=now)
    return charge


def release(session: Session, job_id: JobId, taken: Sequence[TakenReceipt], *, error: str, now: int) -> None:
    """Fail a job: the whole hold goes back, and the treasury pays the parts that were signed.

    Raises Conflict if the job is closed already, NotFound if there is none.
    """
    charge = _total(job_id, taken)
    held = close_unpaid(session, job_id, error=error, now=now)
    if held is None:
        raise _not_accepted(session, job_id)
    lines = [(TREASURY_ID, EntryKind.FAILED_PART, -charge)]
    store(session, taken, lines, account_id=held.account_id, payer_id=TREASURY_ID, now=now)


def take_late(session: Session, taken: TakenReceipt, now: int) -> NanoUsd:
    """Pay, out of the treasury, a receipt that came after its job was closed; return its charge.

    The caller has checked it against what that node was given and sent; here it must be the attempt's first
    receipt, at the job's prices, within the job's hold. Raises Refused otherwise, NotFound if there is no
    job, Conflict if the job still runs or that attempt has a receipt already.
    """
    receipt = taken.signed.receipt
    job = jobs.find(session, receipt.job_id)
    if job is None:
        raise NotFound(f"there is no job {receipt.job_id.hex()}", code="unknown_job")
    if job.state == JobState.ACCEPTED:
        raise Conflict("the job still runs; its receipt is taken when it ends", code="job_running")
    if receipts.for_attempt(session, receipt.job_id, receipt.attempt) is not None:
        raise Conflict("a receipt for this attempt was taken already", code="already_taken")
    _check_offered(job, receipt)
    charge = receipt_charge(receipt)
    room = job.hold - receipts.charged_for_job(session, receipt.job_id)
    if charge > room:
        left = format_usd(NanoUsd(max(0, room)))
        raise Refused(
            f"the receipt charges ${format_usd(charge)}; ${left} of the job's hold is left",
            code="beyond_hold",
        )
    lines = [(TREASURY_ID, EntryKind.FAILED_PART, -charge)]
    store(session, [taken], lines, account_id=job.account_id, payer_id=TREASURY_ID, now=now)
    return charge


def _check_offered(job: JobRow, receipt: Receipt) -> None:
    offered = (job.model_id, job.input_price, job.output_price, job.fee_bps)
    if offered != (receipt.model_id, receipt.input_price, receipt.output_price, receipt.fee_bps):
        raise Refused("the receipt's model or prices are not the job's", code="not_as_offered")


def _total(job_id: JobId, taken: Sequence[TakenReceipt]) -> NanoUsd:
    if any(one.signed.receipt.job_id != job_id for one in taken):
        raise Broken(f"a receipt of another job was booked on {job_id.hex()}")
    return NanoUsd(sum(receipt_charge(one.signed.receipt) for one in taken))


def store(
    session: Session,
    taken: Sequence[TakenReceipt],
    lines: list[entries.Line],
    *,
    account_id: str,
    payer_id: str,
    now: int,
) -> None:
    """Store receipts and who earns them; `lines` are the payer's part of the journal."""
    fees = 0
    for one in taken:
        receipt = one.signed.receipt
        charge, fee = receipt_charge(receipt), receipt_fee_up(receipt)
        operator_id = _earn(session, one, charge - fee, now)
        receipts.add(
            session,
            id=one.id,
            job_id=receipt.job_id,
            attempt=receipt.attempt,
            account_id=account_id,
            payer_id=payer_id,
            operator_id=operator_id,
            node=receipt.node,
            charge=charge,
            fee=fee,
            body=_encode(one.signed),
            taken_at=now,
            taken_epoch=one.taken_epoch,
            taken_signature=one.taken_signature,
            matures_at=one.matures_at,
        )
        fees += fee
        lines.append((operator_id, EntryKind.EARNING, charge - fee))
    lines.append((TREASURY_ID, EntryKind.FEE, fees))
    paid = sum(-amount for owner, _, amount in lines[:1] if owner == TREASURY_ID)
    if (fees or paid) and not accounts.add_to_treasury(session, fee=fees, paid=paid):
        raise Broken("there is no treasury account to book the market's fee on")
    if taken:
        entries.add(session, lines, now=now, reference=taken[0].signed.receipt.job_id.hex())


def _earn(session: Session, taken: TakenReceipt, earning: int, now: int) -> str:
    """Add to what the operator has earned, making its account if need be; return the account's id."""
    operator_id = accounts.add_pending(session, taken.operator, earning)
    if operator_id is None:
        ensure_wallet(session, taken.operator, now)
        operator_id = accounts.add_pending(session, taken.operator, earning)
    if operator_id is None:
        raise Broken(f"the account of {taken.operator} could not be made")
    return operator_id


def _not_accepted(session: Session, job_id: JobId) -> MarketError:
    job = jobs.find(session, job_id)
    if job is None:
        return NotFound(f"there is no job {job_id.hex()}", code="unknown_job")
    return Conflict(f"job {job_id.hex()} is {job.state} already", code="job_closed")
