"""A hold ends once: charged for what was signed, or given back."""

import msgspec
import pytest
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Broken, Conflict, NotFound, Refused
from marketplace.services import ledger
from marketplace.storage.queries import accounts, entries, jobs, keys, receipts
from marketplace.storage.tables import Account
from tallystick.protocol.ids import JobId
from tallystick.protocol.receipts import SignedReceipt
from tests.support.books import (
    BOB,
    NOW,
    OPERATOR,
    TREASURY,
    USD,
    api_key,
    hold,
    make_job,
    taken,
    undone,
    wallet,
)

CHARGE = 120 * 300
FEE = 1800


def account(books: Session, account_id: str) -> Account:
    found = accounts.find(books, account_id)
    assert found is not None
    return found


def capture(books: Session, job_id: JobId, *parts: object) -> int:
    return ledger.capture(
        books,
        job_id,
        parts,  # type: ignore[arg-type]  # TakenReceipts
        finish=0,
        prompt_tokens=20,
        output_tokens=100,
        now=NOW + 600,
    )


def test_a_completed_job_captures_its_hold_once(books: Session) -> None:
    consumer = wallet(books)
    key_id = api_key(books, consumer)
    job = hold(books, make_job(consumer, key_id=key_id))
    assert capture(books, job.id, taken(job)) == CHARGE
    with pytest.raises(Conflict, match="done already"):
        capture(books, job.id, taken(job))
    with pytest.raises(Conflict):
        ledger.release(books, job.id, [], error="late", now=NOW)
    paid = account(books, consumer)
    assert (paid.balance, paid.held, paid.spent) == (USD - CHARGE, 0, CHARGE)
    key = keys.find(books, key_id)
    assert key is not None
    assert (key.held, key.spent) == (0, CHARGE)


def test_a_captured_charge_is_the_operators_earning_and_the_treasurys_fee(books: Session) -> None:
    job = hold(books, make_job(wallet(books)))
    capture(books, job.id, taken(job))
    assert account(books, OPERATOR).earned_pending == CHARGE - FEE
    assert account(books, TREASURY_ID).earned_pending == FEE
    lines = entries.of_account(books, OPERATOR, limit=10)
    assert [(line.kind, line.amount, line.reference) for line in lines] == [
        ("earning", CHARGE - FEE, job.id.hex())
    ]


def test_a_fee_is_rounded_up_and_the_parts_add_up(books: Session) -> None:
    job = hold(books, make_job(wallet(books), input_price=1, output_price=1, fee_bps=333))
    capture(books, job.id, taken(job, prompt_tokens=1, output_tokens=9))
    assert account(books, TREASURY_ID).earned_pending == 1
    assert account(books, OPERATOR).earned_pending == 9


def test_each_node_earns_its_own_part(books: Session) -> None:
    job = hold(books, make_job(wallet(books)))
    first = taken(job, attempt=0, output_tokens=30)
    second = taken(job, attempt=1, operator=BOB, prompt_tokens=0, first_position=30, output_tokens=70)
    assert capture(books, job.id, first, second) == CHARGE
    assert account(books, OPERATOR).earned_pending == 50 * 300 - 750
    assert account(books, BOB).earned_pending == 70 * 300 - 1050


def test_an_operator_that_owns_the_market_earns_on_the_treasury(books: Session) -> None:
    job = hold(books, make_job(wallet(books)))
    capture(books, job.id, taken(job, operator=TREASURY))
    assert account(books, TREASURY_ID).earned_pending == CHARGE


def test_zero_tokens_delivered_are_zero_charged(books: Session) -> None:
    consumer = wallet(books)
    job = hold(books, make_job(consumer))
    assert capture(books, job.id) == 0
    assert (account(books, consumer).balance, account(books, consumer).held) == (USD, 0)


def test_receipts_beyond_the_hold_are_our_bug_and_change_nothing(books: Session) -> None:
    job = hold(books, make_job(wallet(books), hold=CHARGE - 1))
    with pytest.raises(Broken), undone(books):
        capture(books, job.id, taken(job))
    found = jobs.find(books, job.id)
    assert found is not None
    assert found.state == "accepted"


def test_a_receipt_of_another_job_is_never_booked(books: Session) -> None:
    consumer = wallet(books)
    job, other = (hold(books, make_job(consumer, number=number)) for number in (1, 2))
    with pytest.raises(Broken, match="another job"):
        capture(books, job.id, taken(other))


def test_an_unknown_job_is_not_captured(books: Session) -> None:
    with pytest.raises(NotFound):
        capture(books, JobId(bytes(32)))


def test_the_stored_receipt_is_the_signed_one(books: Session) -> None:
    job = hold(books, make_job(wallet(books)))
    part = taken(job)
    capture(books, job.id, part)
    row = receipts.find(books, part.id)
    assert row is not None
    assert msgspec.msgpack.decode(row.body, type=SignedReceipt) == part.signed
    assert (row.charge, row.fee, row.taken_epoch, row.matured) == (CHARGE, FEE, 7, False)


def test_a_failed_job_costs_its_consumer_nothing_and_the_treasury_its_signed_parts(books: Session) -> None:
    consumer = wallet(books)
    key_id = api_key(books, consumer)
    job = hold(books, make_job(consumer, key_id=key_id))
    ledger.release(books, job.id, [taken(job)], error="nodes_failed", now=NOW)
    free = account(books, consumer)
    assert (free.balance, free.held, free.spent) == (USD, 0, 0)
    key = keys.find(books, key_id)
    assert key is not None
    assert (key.held, key.spent) == (0, 0)
    assert account(books, TREASURY_ID).spent == CHARGE
    assert account(books, OPERATOR).earned_pending == CHARGE - FEE
    with pytest.raises(Conflict, match="failed already"):
        capture(books, job.id, taken(job))


def test_a_late_receipt_is_paid_once_by_the_treasury(books: Session) -> None:
    consumer = wallet(books)
    job = hold(books, make_job(consumer))
    late = taken(job)
    with pytest.raises(Conflict, match="still runs"):
        ledger.take_late(books, late, NOW)
    ledger.release(books, job.id, [], error="nodes_failed", now=NOW)
    assert ledger.take_late(books, late, NOW) == CHARGE
    with pytest.raises(Conflict, match="already"):
        ledger.take_late(books, late, NOW)
    assert account(books, TREASURY_ID).spent == CHARGE
    assert account(books, consumer).spent == 0


def test_a_late_receipt_of_an_expired_hold_is_paid(books: Session) -> None:
    job = hold(books, make_job(wallet(books)), expires_at=NOW)
    ledger.expire_holds(books, NOW)
    assert ledger.take_late(books, taken(job), NOW) == CHARGE


def test_late_receipts_never_add_up_to_more_than_the_hold(books: Session) -> None:
    job = hold(books, make_job(wallet(books), hold=2 * CHARGE - 1))
    ledger.release(books, job.id, [taken(job)], error="nodes_failed", now=NOW)
    with pytest.raises(Refused, match="of the job's hold is left"):
        ledger.take_late(books, taken(job, attempt=1), NOW)


@pytest.mark.parametrize(
    "lie", [{"input_price": 301}, {"output_price": 301}, {"fee_bps": 0}, {"model_id": bytes(32)}]
)
def test_a_late_receipt_at_other_prices_is_refused(books: Session, lie: dict[str, object]) -> None:
    job = hold(books, make_job(wallet(books)))
    ledger.release(books, job.id, [], error="nodes_failed", now=NOW)
    with pytest.raises(Refused, match="not the job's"):
        ledger.take_late(books, taken(job, **lie), NOW)


def test_a_late_receipt_of_an_unknown_job_is_refused(books: Session) -> None:
    with pytest.raises(NotFound):
        ledger.take_late(books, taken(make_job("nobody")), NOW)
