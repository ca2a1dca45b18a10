"""A hold sets aside the most that a job can cost, or is refused with the numbers."""

from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.errors import (
    ConsentNeeded,
    Forbidden,
    InsufficientBalance,
    KeyCapReached,
    NotAuthenticated,
    UnsignedBudgetSpent,
)
from marketplace.services import ledger
from marketplace.storage.queries import accounts, jobs, keys
from marketplace.storage.tables import JobRow
from tallystick.protocol.ids import JobId, to_address
from tallystick.protocol.money import NanoUsd
from tests.support.books import (
    ALICE,
    NOW,
    TREASURY,
    USD,
    api_key,
    email_account,
    hold,
    make_job,
    undone,
    wallet,
)


def test_a_hold_is_set_aside_on_the_account_and_the_key(books: Session) -> None:
    account_id = wallet(books)
    key_id = api_key(books, account_id, cap=USD)
    hold(books, make_job(account_id, key_id=key_id, hold=1234))
    account, key = accounts.find(books, account_id), keys.find(books, key_id)
    assert account is not None
    assert key is not None
    assert (account.balance, account.held, key.held, key.spent) == (USD, 1234, 1234, 0)
    assert key.last_used_at == NOW


def test_a_balance_that_covers_ten_holds_covers_ten(books: Session) -> None:
    account_id = wallet(books, balance=10 * 100_000)
    for number in range(10):
        hold(books, make_job(account_id, number=number))
    with pytest.raises(InsufficientBalance) as refused, undone(books):
        hold(books, make_job(account_id, number=10))
    assert (refused.value.needed, refused.value.available) == (100_000, 0)


def test_a_hold_too_large_is_refused_whole_and_says_what_is_there(books: Session) -> None:
    account_id = wallet(books, balance=99_999)
    with pytest.raises(InsufficientBalance, match=r"\$0\.0001; \$0\.000099999 is available") as refused:
        hold(books, make_job(account_id, hold=100_000))
    assert refused.value.available == 99_999
    account = accounts.find(books, account_id)
    assert account is not None
    assert account.held == 0


def test_a_requested_withdrawal_cannot_be_held(books: Session) -> None:
    account_id = wallet(books, balance=300_000)
    ledger.note_withdrawal_request(books, ALICE, NanoUsd(250_000), NOW + 1000)
    with pytest.raises(InsufficientBalance) as refused:
        hold(books, make_job(account_id, hold=50_001))
    assert refused.value.available == 50_000
    hold(books, make_job(account_id, hold=50_000))


@pytest.mark.parametrize("source", ["authorized", "consented"])
def test_a_wallet_is_served_up_to_its_right_and_the_unsigned_allowance(books: Session, source: str) -> None:
    account_id = wallet(books, authorized=0)
    if source == "authorized":
        ledger.set_authorized(books, ALICE, NanoUsd(USD // 2))
    else:
        ledger.store_consent(books, account_id, NanoUsd(USD // 2), bytes(65))
    right = USD // 2 + USD // 100
    hold(books, make_job(account_id, number=1, hold=right - 1))
    hold(books, make_job(account_id, number=2, hold=1))
    with pytest.raises(ConsentNeeded) as refused:
        hold(books, make_job(account_id, number=3, hold=1))
    assert (refused.value.authorized, refused.value.spent) == (USD // 2, right)


def test_an_account_on_credit_needs_no_consent(books: Session) -> None:
    account_id = email_account(books, credit=100_000)
    hold(books, make_job(account_id, hold=100_000))


def test_a_key_serves_up_to_its_cap_and_no_further(books: Session) -> None:
    account_id = wallet(books)
    key_id = api_key(books, account_id, cap=150_000)
    hold(books, make_job(account_id, key_id=key_id, hold=100_000))
    with pytest.raises(KeyCapReached) as refused, undone(books):
        hold(books, make_job(account_id, number=2, key_id=key_id, hold=50_001))
    assert (refused.value.needed, refused.value.left) == (50_001, 50_000)
    hold(books, make_job(account_id, number=3, key_id=key_id, hold=50_000))


def test_a_revoked_key_holds_nothing(books: Session) -> None:
    account_id = wallet(books)
    key_id = api_key(books, account_id)
    keys.change(books, key_id, account_id, revoked_at=NOW)
    with pytest.raises(NotAuthenticated), undone(books):
        hold(books, make_job(account_id, key_id=key_id))


def test_a_key_of_another_account_holds_nothing(books: Session) -> None:
    account_id = wallet(books)
    other = api_key(books, email_account(books))
    with pytest.raises(NotAuthenticated), undone(books):
        hold(books, make_job(account_id, key_id=other))


def test_a_suspended_account_and_the_treasury_run_no_jobs(books: Session) -> None:
    account_id = wallet(books)
    accounts.change(books, account_id, status="suspended")
    with pytest.raises(Forbidden, match="suspended"):
        hold(books, make_job(account_id))
    ledger.credit_deposit(books, TREASURY, NanoUsd(USD), "", NOW)
    with pytest.raises(Forbidden, match="own account"):
        hold(books, make_job("treasury"))


def test_a_hold_that_ran_out_is_given_back(books: Session) -> None:
    account_id = wallet(books)
    key_id = api_key(books, account_id)
    late = hold(books, make_job(account_id, number=1, key_id=key_id), expires_at=NOW + 10)
    hold(books, make_job(account_id, number=2, key_id=key_id), expires_at=NOW + 11)
    assert ledger.expire_holds(books, NOW + 10) == [JobId(late.id)]
    account, job = accounts.find(books, account_id), jobs.find(books, late.id)
    assert account is not None
    assert job is not None
    assert (account.held, job.state, job.error) == (100_000, "failed", "expired")
    assert ledger.expire_holds(books, NOW + 10) == []


DAY_MS = 86_400_000
LENT = ledger.HoldTerms(unsigned_allowance=NanoUsd(100_000), unsigned_daily=NanoUsd(350_000))
"""For three wallets and a half."""


def borrow(books: Session, who: int, *, day: int = 0, amount: int = 40_000) -> None:
    """Hold money of a wallet that has authorized nothing, under a daily budget."""
    now = NOW + day * DAY_MS
    address = to_address(f"0x{who:040x}")
    if accounts.by_address(books, address) is None:
        ledger.credit_deposit(books, address, NanoUsd(USD), f"deposit {who}", now)
    number = len(books.query(JobRow).all())
    job = replace(make_job(address, number=number, hold=amount), accepted_at_ms=now)
    ledger.open_hold(books, job, expires_at=now + 60_000, terms=LENT)


def test_many_wallets_together_run_ahead_no_further_than_the_days_budget(books: Session) -> None:
    for who in (1, 2, 3):
        borrow(books, who)
        borrow(books, who)
    with pytest.raises(UnsignedBudgetSpent, match="authorize"), undone(books):
        borrow(books, 4)
    refused = accounts.find(books, f"0x{4:040x}")
    assert refused is None or refused.held == 0
    with pytest.raises(ConsentNeeded), undone(books):
        borrow(books, 1)
    for who in (4, 5, 6):
        borrow(books, who, day=1)
    with pytest.raises(UnsignedBudgetSpent), undone(books):
        borrow(books, 7, day=1)
    held = sum(account.held for account in accounts.page(books, after="", limit=100))
    assert held == 3 * 80_000 + 3 * 40_000


def test_a_wallet_that_catches_up_makes_room_for_another(books: Session) -> None:
    for who in (1, 2, 3):
        borrow(books, who)
    one, two = to_address(f"0x{1:040x}"), to_address(f"0x{2:040x}")
    accounts.change(books, one, spent=500)
    assert ledger.store_consent(books, one, NanoUsd(499), bytes(65))
    with pytest.raises(UnsignedBudgetSpent), undone(books):
        borrow(books, 4)
    assert ledger.store_consent(books, one, NanoUsd(500), bytes(65))
    borrow(books, 4)
    ledger.set_authorized(books, two, NanoUsd(USD))
    borrow(books, 5)
    borrow(books, 2)
    with pytest.raises(UnsignedBudgetSpent), undone(books):
        borrow(books, 6)
    accounts.change(books, one, spent=0)  # the books must add up after a test, and nothing was charged
