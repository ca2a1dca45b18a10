"""What the chain says enters the books, and leaves them again when the chain takes it back."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import BadRequest, Broken, Conflict, InsufficientBalance, NotFound
from marketplace.services import ledger
from marketplace.storage.queries import accounts
from marketplace.storage.tables import Account, ConsentKey
from tallystick.protocol.money import NanoUsd
from tests.support.books import ALICE, BOB, NOW, TREASURY, USD, hold, make_job, taken, wallet


def at(books: Session, address: str) -> Account:
    found = accounts.by_address(books, address)
    assert found is not None
    return found


def test_a_deposit_makes_the_account_that_it_is_for(books: Session) -> None:
    account_id = ledger.credit_deposit(books, ALICE, NanoUsd(5), "0x01:3", NOW)
    ledger.credit_deposit(books, ALICE, NanoUsd(7), "0x02:0", NOW)
    account = at(books, ALICE)
    assert (account.id, account.kind, account.balance, account.deposited) == (account_id, "wallet", 12, 12)


def test_a_deposit_at_the_markets_own_address_is_the_treasurys(books: Session) -> None:
    assert ledger.credit_deposit(books, TREASURY, NanoUsd(5), "", NOW) == TREASURY_ID


def test_a_deposit_of_nothing_is_refused(books: Session) -> None:
    with pytest.raises(BadRequest):
        ledger.credit_deposit(books, ALICE, NanoUsd(0), "", NOW)


def test_a_deposit_that_was_spent_and_undone_leaves_a_debt(books: Session) -> None:
    account_id = wallet(books, balance=100_000)
    job = hold(books, make_job(account_id))
    parts = [taken(job)]
    ledger.capture(books, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW)
    ledger.undo_deposit(books, ALICE, NanoUsd(100_000), "deposit", NOW)
    assert at(books, ALICE).balance == -36_000
    with pytest.raises(InsufficientBalance) as refused:
        hold(books, make_job(account_id, number=2))
    assert refused.value.available == 0


def test_nothing_is_undone_for_an_unknown_address(books: Session) -> None:
    with pytest.raises(NotFound):
        ledger.undo_deposit(books, BOB, NanoUsd(1), "", NOW)


def test_a_new_request_replaces_the_old_and_a_withdrawal_ends_it(books: Session) -> None:
    wallet(books)
    ledger.note_withdrawal_request(books, ALICE, NanoUsd(400), NOW + 1)
    ledger.note_withdrawal_request(books, ALICE, NanoUsd(300), NOW + 2)
    assert (at(books, ALICE).requested, at(books, ALICE).requested_payable_at) == (300, NOW + 2)
    ledger.apply_withdrawal(books, ALICE, NanoUsd(300), "0x03:1", NOW + 3)
    account = at(books, ALICE)
    assert (account.balance, account.withdrawn, account.requested) == (USD - 300, 300, 0)


def test_an_undone_withdrawal_is_requested_again(books: Session) -> None:
    wallet(books)
    ledger.apply_withdrawal(books, ALICE, NanoUsd(300), "0x03:1", NOW)
    ledger.undo_withdrawal(books, ALICE, NanoUsd(300), "0x03:1", NOW + 5)
    account = at(books, ALICE)
    assert (account.balance, account.withdrawn, account.requested) == (USD, 0, 300)


def test_a_right_is_what_the_chain_says_also_when_it_fell(books: Session) -> None:
    wallet(books, authorized=500)
    ledger.set_authorized(books, ALICE, NanoUsd(20))
    assert at(books, ALICE).authorized == 20


def test_a_consent_only_grows(books: Session) -> None:
    account_id = wallet(books)
    assert ledger.store_consent(books, account_id, NanoUsd(50), b"a" * 65)
    assert not ledger.store_consent(books, account_id, NanoUsd(50), b"b" * 65)
    assert not ledger.store_consent(books, account_id, NanoUsd(49), b"c" * 65)
    assert (at(books, ALICE).consented, at(books, ALICE).consent_signature) == (50, b"a" * 65)


def test_a_consent_key_is_added_once(books: Session) -> None:
    ledger.add_consent_key(books, ALICE, BOB)
    ledger.add_consent_key(books, ALICE, BOB)
    assert [(key.account_id, key.address) for key in books.scalars(select(ConsentKey))] == [(ALICE, BOB)]


def test_there_is_one_treasury(books: Session) -> None:
    ledger.ensure_treasury(books, TREASURY, NOW)
    with pytest.raises(Conflict, match=TREASURY):
        ledger.ensure_treasury(books, ALICE, NOW)


def test_an_account_on_credit_has_no_deposit(books: Session) -> None:
    accounts.create(books, "carol", accounts.AccountKind.EMAIL, NOW, email="c@example.com", address=ALICE)
    with pytest.raises(Broken):
        ledger.credit_deposit(books, ALICE, NanoUsd(1), "", NOW)
    books.rollback()
