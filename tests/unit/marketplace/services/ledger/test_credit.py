"""Credit is promised out of the operator's deposit, never beyond it."""

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.errors import BadRequest, Broken, Conflict, NotFound
from marketplace.services import ledger
from marketplace.services.ledger.credit import TreasuryShort
from marketplace.storage.queries import accounts
from tallystick.protocol.money import NanoUsd
from tests.support.books import NOW, TREASURY, email_account, hold, make_job, undone, wallet


def balance(books: Session, account_id: str) -> int:
    account = accounts.find(books, account_id)
    assert account is not None
    return account.balance


def granted(books: Session) -> int:
    treasury = accounts.find(books, TREASURY_ID)
    assert treasury is not None
    return treasury.granted


def test_a_grant_is_credit_of_the_account_and_a_promise_of_the_treasury(books: Session) -> None:
    account_id = email_account(books, credit=1000)
    assert (balance(books, account_id), granted(books), balance(books, TREASURY_ID)) == (1000, 1000, 1000)


def test_grants_never_exceed_the_deposit(books: Session) -> None:
    account_id = email_account(books, credit=1000)
    ledger.credit_deposit(books, TREASURY, NanoUsd(10), "", NOW)
    with pytest.raises(TreasuryShort, match=r"\$0\.00000001 is not promised yet"), undone(books):
        ledger.grant_credit(books, account_id, NanoUsd(11), "", NOW)
    ledger.grant_credit(books, account_id, NanoUsd(10), "", NOW)


def test_a_deposit_that_is_leaving_covers_no_grant(books: Session) -> None:
    account_id = email_account(books, credit=1000)
    ledger.credit_deposit(books, TREASURY, NanoUsd(10), "", NOW)
    ledger.note_withdrawal_request(books, TREASURY, NanoUsd(10), NOW)
    with pytest.raises(TreasuryShort), undone(books):
        ledger.grant_credit(books, account_id, NanoUsd(1), "", NOW)


def test_a_reference_is_granted_once(books: Session) -> None:
    account_id = email_account(books)
    ledger.credit_deposit(books, TREASURY, NanoUsd(100), "", NOW)
    ledger.grant_credit(books, account_id, NanoUsd(10), "invoice 7", NOW)
    with pytest.raises(Conflict, match="invoice 7"):
        ledger.grant_credit(books, account_id, NanoUsd(10), "invoice 7", NOW)


def test_a_wallet_gets_no_credit_and_nobody_neither(books: Session) -> None:
    account_id = wallet(books)
    ledger.credit_deposit(books, TREASURY, NanoUsd(100), "", NOW)
    with pytest.raises(BadRequest, match="deposit"), undone(books):
        ledger.grant_credit(books, account_id, NanoUsd(10), "", NOW)
    with pytest.raises(NotFound), undone(books):
        ledger.grant_credit(books, "nobody", NanoUsd(10), "", NOW)
    with pytest.raises(BadRequest):
        ledger.revoke_credit(books, account_id, NanoUsd(10), "", NOW)


def test_only_credit_that_is_free_is_revoked(books: Session) -> None:
    account_id = email_account(books, credit=150_000)
    hold(books, make_job(account_id, hold=100_000))
    assert ledger.revoke_credit(books, account_id, NanoUsd(10_000), "", NOW) == 10_000
    assert ledger.revoke_credit(books, account_id, NanoUsd(90_000), "", NOW) == 40_000
    assert ledger.revoke_credit(books, account_id, NanoUsd(1), "", NOW) == 0
    assert (balance(books, account_id), granted(books)) == (100_000, 100_000)


def test_settled_credit_is_owed_no_more(books: Session) -> None:
    email_account(books, credit=1000)
    ledger.settle_credit(books, NanoUsd(400))
    assert granted(books) == 600
    with pytest.raises(Broken), undone(books):
        ledger.settle_credit(books, NanoUsd(601))


def test_an_amount_that_is_not_positive_is_refused(books: Session) -> None:
    accounts.create(books, "dave", AccountKind.EMAIL, NOW)
    for amount in (0, -5):
        with pytest.raises(BadRequest):
            ledger.grant_credit(books, "dave", NanoUsd(amount), "", NOW)
        with pytest.raises(BadRequest):
            ledger.revoke_credit(books, "dave", NanoUsd(amount), "", NOW)
