"""Consents never exceed what the account's own, checked receipts add up to."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.consents import ConsentBook, ReceiptRejected, check_answer, check_receipt
from tallystick.protocol.eip712 import consent_digest, offer_hash, sign_receipt
from tallystick.protocol.keys import SigningKey, recover
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import Receipt, SignedReceipt, offer_of, receipt_charge
from tests.support.books import make_job, taken
from tests.support.nodes import DOMAIN, key_of

CONSUMER = key_of(50)
JOB = (1).to_bytes(32, "big")


def a_receipt(number: int = 1, *, signer: SigningKey | None = None, **fields: Any) -> SignedReceipt:
    """Return a receipt of node 1 for the consumer: 20 tokens in and 100 out at 300, but for `fields`."""
    given_ = {"account": CONSUMER.address, "node": key_of(1).address} | fields
    receipt = taken(make_job("a", number=number), **given_).signed.receipt
    whole = Receipt(
        **{name: getattr(receipt, name) for name in Receipt.__struct_fields__}
        | {"offer_hash": fields.get("offer_hash", offer_hash(offer_of(receipt)))}
    )
    return sign_receipt(DOMAIN, whole, signer or key_of(1))


def a_book(folder: Path, key: SigningKey = CONSUMER) -> ConsentBook:
    """Return the consumer's book in `folder`."""
    return ConsentBook(domain=DOMAIN, account=CONSUMER.address, key=key, directory=folder)


def test_a_sound_receipt_charges_tokens_times_price() -> None:
    charge = check_receipt(a_receipt(), domain=DOMAIN, account=CONSUMER.address, job_id=JOB)
    assert charge == 120 * 300


@pytest.mark.parametrize(
    ("receipt", "reason"),
    [
        (a_receipt(account=key_of(51).address), "charges"),
        (a_receipt(2), "is for job"),
        (a_receipt(offer_hash=b"\x12" * 32), "offer hash"),
        (a_receipt(signer=key_of(2)), "is signed by"),
        (SignedReceipt(receipt=a_receipt().receipt, signature=bytes(65)), "signature"),
        (
            SignedReceipt(receipt=a_receipt(output_tokens=101).receipt, signature=a_receipt().signature),
            "signed by",
        ),
    ],
)
def test_a_receipt_that_is_not_ours_or_not_the_nodes_is_rejected(receipt: SignedReceipt, reason: str) -> None:
    with pytest.raises(ReceiptRejected, match=reason):
        check_receipt(receipt, domain=DOMAIN, account=CONSUMER.address, job_id=JOB)


@pytest.mark.parametrize(("charge", "tokens"), [(36_001, 120), (35_999, 120), (36_000, 121), (36_000, 119)])
def test_an_answer_whose_receipts_do_not_bear_it_out_is_rejected(charge: int, tokens: int) -> None:
    with pytest.raises(ReceiptRejected, match="the receipts"):
        check_answer(
            [a_receipt()],
            domain=DOMAIN,
            account=CONSUMER.address,
            job_id=JOB,
            charge=NanoUsd(charge),
            tokens=tokens,
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), max_size=4), max_size=6))
def test_consents_grow_and_are_the_sum_of_the_receipts_seen_each_once(answers: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen: set[int] = set()
        before = 0
        for numbers in answers:
            receipts = [a_receipt(number, output_tokens=10 * number) for number in numbers]
            consent = a_book(Path(folder)).sign_for(
                receipts
            )  # a new book each time: it is the file that counts
            seen |= set(numbers)
            assert consent.spent == sum((20 + 10 * number) * 300 for number in seen)
            assert consent.spent >= before
            before = consent.spent


def test_a_consent_is_signed_by_the_key_that_was_given(tmp_path: Path) -> None:
    key = key_of(60)
    consent = a_book(tmp_path, key).sign_for([a_receipt()])
    digest = consent_digest(DOMAIN, CONSUMER.address, consent.spent)
    assert recover(digest, consent.signature) == key.address
    assert consent.to_json() == {
        "account": CONSUMER.address,
        "spent": "36000",
        "signature": "0x" + consent.signature.hex(),
    }


def test_a_receipt_of_long_ago_is_not_counted_again(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    first = a_receipt(1)
    book.sign_for([first])
    book.sign_for([a_receipt(number, output_tokens=0) for number in range(2, 120)])
    spent = book.sign_for([]).spent
    assert book.sign_for([first]).spent == spent == 36_000 + 118 * 20 * 300


WRITER = """
import sys
from pathlib import Path
from tests.unit.tallystick.test_consents import a_book, a_receipt
book = a_book(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    book.sign_for([a_receipt(number)])
"""


def test_two_processes_share_a_book_without_losing_or_doubling_a_receipt(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), first, last], cwd=Path(__file__).parents[3]
        )
        for first, last in (("1", "13"), ("8", "20"))
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert a_book(tmp_path).sign_for([]).spent == 19 * receipt_charge(a_receipt().receipt)
