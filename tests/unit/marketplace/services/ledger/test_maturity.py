"""Receipts mature when their lag is over; rows and cheques never run ahead of that."""

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Broken
from marketplace.services import ledger
from marketplace.storage.queries import accounts
from marketplace.storage.tables import Account
from tallystick.protocol.money import NanoUsd
from tests.support.books import (
    ALICE,
    NOW,
    OPERATOR,
    TREASURY,
    email_account,
    hold,
    make_job,
    taken,
    undone,
    wallet,
)

CHARGE = 36_000
FEE = 1_800


def account(books: Session, account_id: str) -> Account:
    found = accounts.find(books, account_id)
    assert found is not None
    return found


def done(books: Session, account_id: str, number: int = 1, *, matures_at: int = NOW + 1000) -> None:
    job = hold(books, make_job(account_id, number=number))
    parts = [taken(job, matures_at=matures_at)]
    ledger.capture(books, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW)


def test_a_receipt_matures_when_its_lag_is_over_and_once(books: Session) -> None:
    done(books, wallet(books))
    assert ledger.mature(books, NOW + 999, 100) == 0
    assert account(books, OPERATOR).earned == 0
    assert ledger.mature(books, NOW + 1000, 100) == 1
    assert ledger.mature(books, NOW + 1000, 100) == 0
    operator, treasury = account(books, OPERATOR), account(books, TREASURY_ID)
    assert (operator.earned, operator.earned_pending) == (CHARGE - FEE, 0)
    assert (treasury.earned, treasury.earned_pending) == (FEE, 0)
    assert account(books, ALICE).spent_matured == CHARGE


def test_receipts_mature_in_portions_the_oldest_first(books: Session) -> None:
    consumer = wallet(books)
    for number in range(5):
        done(books, consumer, number, matures_at=NOW + 5 - number)
    assert [ledger.mature(books, NOW + 5, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert account(books, consumer).spent_matured == 5 * CHARGE


def test_what_an_account_on_credit_spent_matures_on_its_own_account(books: Session) -> None:
    consumer = email_account(books)
    done(books, consumer)
    ledger.mature(books, NOW + 1000, 100)
    assert (account(books, consumer).spent_matured, account(books, TREASURY_ID).spent_matured) == (CHARGE, 0)


def test_an_account_accrues_from_its_first_maturity_until_nothing_is_left(books: Session) -> None:
    consumer = wallet(books)
    done(books, consumer, 1)
    ledger.mature(books, NOW + 1000, 100)
    done(books, consumer, 2)
    ledger.mature(books, NOW + 2000, 100)
    assert account(books, consumer).spent_since == NOW + 1000
    assert account(books, OPERATOR).earned_since == NOW + 1000
    ledger.mark_charge_settled(books, consumer, NanoUsd(CHARGE), sealed_at=NOW + 1500)
    assert account(books, consumer).spent_since == NOW + 1500
    ledger.mark_charge_settled(books, consumer, NanoUsd(2 * CHARGE))
    assert (account(books, consumer).spent_since, account(books, consumer).spent_settled) == (
        None,
        2 * CHARGE,
    )
    assert account(books, OPERATOR).earned_since == NOW + 1000


def test_what_a_wallet_spends_does_not_put_off_what_it_has_earned(books: Session) -> None:
    both = wallet(books, OPERATOR)
    done(books, wallet(books), 1)
    ledger.mature(books, NOW + 1000, 100)
    assert (account(books, both).spent_since, account(books, both).earned_since) == (None, NOW + 1000)
    done(books, both, 2)
    ledger.mature(books, NOW + 2000, 100)
    assert account(books, both).spent_since == NOW + 2000
    ledger.mark_charge_settled(books, both, NanoUsd(CHARGE), sealed_at=NOW + 3000)
    assert (account(books, both).spent_since, account(books, both).earned_since) == (None, NOW + 1000)
    ledger.mark_payout_settled(books, both, NanoUsd(1), sealed_at=NOW + 4000)
    assert (account(books, both).spent_since, account(books, both).earned_since) == (None, NOW + 4000)


def test_a_repeated_or_older_row_changes_nothing(books: Session) -> None:
    consumer = wallet(books)
    for number in (1, 2):
        done(books, consumer, number)
    ledger.mature(books, NOW + 1000, 100)
    ledger.mark_charge_settled(books, consumer, NanoUsd(2 * CHARGE))
    ledger.mark_charge_settled(books, consumer, NanoUsd(CHARGE))
    ledger.mark_payout_settled(books, OPERATOR, NanoUsd(5))
    ledger.mark_payout_settled(books, OPERATOR, NanoUsd(4))
    assert account(books, consumer).spent_settled == 2 * CHARGE
    assert account(books, OPERATOR).earned_settled == 5


def test_rows_and_cheques_beyond_what_matured_are_our_bug(books: Session) -> None:
    consumer = wallet(books)
    done(books, consumer)
    ledger.mature(books, NOW + 1000, 100)
    with pytest.raises(Broken):
        ledger.mark_charge_settled(books, consumer, NanoUsd(CHARGE + 1))
    with pytest.raises(Broken):
        ledger.mark_payout_settled(books, OPERATOR, NanoUsd(CHARGE - FEE + 1))
    with pytest.raises(Broken):
        ledger.note_acknowledged(books, OPERATOR, NanoUsd(CHARGE - FEE + 1), 3)


def test_cheques_only_grow(books: Session) -> None:
    done(books, wallet(books))
    ledger.mature(books, NOW + 1000, 100)
    assert ledger.note_acknowledged(books, OPERATOR, NanoUsd(100), 3)
    assert not ledger.note_acknowledged(books, OPERATOR, NanoUsd(99), 4)
    assert (account(books, OPERATOR).acknowledged, account(books, OPERATOR).acknowledged_epoch) == (100, 3)


def test_an_advance_comes_out_of_the_treasurys_deposit(books: Session) -> None:
    ledger.credit_deposit(books, TREASURY, NanoUsd(500), "", NOW)
    ledger.treasury_advance(books, NanoUsd(200), "epoch 1", NOW)
    ledger.treasury_advance(books, NanoUsd(300), "epoch 2", NOW)
    treasury = account(books, TREASURY_ID)
    assert (treasury.balance, treasury.spent_settled) == (0, 500)
    with pytest.raises(Broken), undone(books):
        ledger.treasury_advance(books, NanoUsd(1), "epoch 3", NOW)
