"""The audit of the books finds every column that was tampered with, and nothing in books that are right."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from tests.support.books import NOW, api_key, email_account, fresh_books, hold, make_job, taken, wallet


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Session]:
    """Books with a bit of everything in them."""
    for session in fresh_books(tmp_path):
        consumer = wallet(session)
        key_id = api_key(session, consumer)
        for number, account_id, key in ((1, consumer, key_id), (2, email_account(session), "")):
            job = hold(session, make_job(account_id, number=number, key_id=key))
            parts = [taken(job, matures_at=NOW + number)]
            ledger.capture(session, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW)
        failed = hold(session, make_job(consumer, number=3))
        ledger.release(session, failed.id, [taken(failed)], error="nodes_failed", now=NOW)
        hold(session, make_job(consumer, number=4, key_id=key_id))
        ledger.mature(session, NOW + 1, 100)
        yield session


def test_books_that_are_right_have_no_findings(books: Session) -> None:
    report = audit_books(books)
    assert report.findings == ()
    assert (report.receipts, report.charged) == (3, 3 * 36_000)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("account", "balance"),
        ("account", "held"),
        ("account", "spent"),
        ("account", "spent_matured"),
        ("account", "earned"),
        ("account", "earned_pending"),
        ("account", "granted"),
        ("account", "deposited"),
        ("account", "withdrawn"),
        ("api_key", "held"),
        ("api_key", "spent"),
        ("job", "charge"),
        ("receipt", "charge"),
        ("receipt", "fee"),
        ("entry", "amount"),
    ],
)
def test_one_nano_dollar_too_many_is_found(books: Session, table: str, column: str) -> None:
    one = f"rowid IN (SELECT min(rowid) FROM {table})"
    books.execute(text(f"UPDATE {table} SET {column} = {column} + 1 WHERE {one}"))
    assert audit_books(books).findings


@pytest.mark.parametrize("table", ["receipt", "entry", "job"])
def test_a_lost_row_is_found(books: Session, table: str) -> None:
    books.execute(text(f"DELETE FROM {table} WHERE rowid IN (SELECT min(rowid) FROM {table})"))
    assert audit_books(books).findings


@pytest.mark.parametrize("change", ["acknowledged = earned + 1", "earned_settled = earned + 1"])
def test_a_cheque_or_row_beyond_what_matured_is_found(books: Session, change: str) -> None:
    books.execute(text(f"UPDATE account SET {change} WHERE earned > 0"))
    assert audit_books(books).findings
