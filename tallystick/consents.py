"""What a consumer signs as it goes: consents to its spending, never beyond what its own receipts add up to.

A consent says "this account has spent so much, ever". The book below counts only receipts that this client
saw an answer for and checked: signed by the node they name, for this account, at the price and length of that
answer. It remembers the sum in a file, so that the next run goes on where this one stopped.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tallystick.protocol.eip712 import Domain, consent_digest, offer_hash, receipt_digest
from tallystick.protocol.ids import Address, to_address, to_hex
from tallystick.protocol.keys import BadSignature, SigningKey, recover
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.protocol.receipts import SignedReceipt, offer_of, receipt_charge


class ReceiptRejected(ValueError):
    """A receipt is not what the answer said; no consent is signed for it."""


@dataclass(frozen=True, slots=True)
class Consent:
    """`account` has spent `spent` nano-dollars ever, signed by the account or one of its consent keys."""

    account: Address
    spent: NanoUsd
    signature: bytes

    def to_json(self) -> dict[str, str]:
        """Return the body for `POST /v1/consents`."""
        return {"account": self.account, "spent": str(self.spent), "signature": to_hex(self.signature)}


def check_receipt(signed: SignedReceipt, *, domain: Domain, account: Address, job_id: bytes) -> NanoUsd:
    """Return what the receipt charges, if it belongs to this account's job and its node signed it.

    Raises ReceiptRejected, saying which part is wrong.
    """
    receipt = signed.receipt
    if receipt.account != account:
        raise ReceiptRejected(f"the receipt charges {receipt.account}, not {account}")
    if receipt.job_id != job_id:
        raise ReceiptRejected(f"the receipt is for job {to_hex(receipt.job_id)}, not {to_hex(job_id)}")
    if receipt.offer_hash != offer_hash(offer_of(receipt)):
        raise ReceiptRejected(
            "the receipt's offer hash is not the hash of its own job, seed, position and prices"
        )
    try:
        signer = recover(receipt_digest(domain, receipt), signed.signature)
    except BadSignature as error:
        raise ReceiptRejected(f"the receipt's signature is malformed: {error}") from error
    if signer != receipt.node:
        raise ReceiptRejected(f"the receipt names node {receipt.node} but is signed by {signer}")
    return receipt_charge(receipt)


def check_answer(
    receipts: list[SignedReceipt],
    *,
    domain: Domain,
    account: Address,
    job_id: bytes,
    charge: NanoUsd,
    tokens: int,
) -> None:
    """Check all parts of one answer against what the client was told and got.

    `charge` is the answer's charge in nano-dollars, `tokens` its prompt and output tokens together.
    Raises ReceiptRejected.
    """
    total = sum(check_receipt(one, domain=domain, account=account, job_id=job_id) for one in receipts)
    if total != charge:
        raise ReceiptRejected(
            f"the receipts add up to ${format_usd(NanoUsd(total))}, the answer says ${format_usd(charge)}"
        )
    billed = sum(one.receipt.prompt_tokens + one.receipt.output_tokens for one in receipts)
    if billed != tokens:
        raise ReceiptRejected(f"the receipts bill {billed} tokens, the answer says {tokens}")


class ConsentBook:
    """The running sum of one account's own receipts, and the key that signs it.

    A receipt that was counted once is never counted again, however old it is and whoever shows it.
    """

    def __init__(self, *, domain: Domain, account: Address, key: SigningKey, directory: Path) -> None:
        self.domain = domain
        self.account = account
        self._key = key
        self._path = directory / f"{domain.chain_id}-{domain.contract}-{account}.sqlite"

    def uncounted(self, receipts: list[SignedReceipt]) -> list[SignedReceipt]:
        """Return those of the receipts that the next consent would count, each once."""
        with self._open() as book:
            known = {bytes(row[0]) for row in book.execute("SELECT receipt FROM counted")}
        fresh = {receipt_digest(self.domain, one.receipt): one for one in receipts}
        return [one for receipt_id, one in fresh.items() if receipt_id not in known]

    def sign_for(self, receipts: list[SignedReceipt]) -> Consent:
        """Count checked receipts that are not counted yet and return a consent to the new sum.

        The sum is on disk when this returns; several processes may share a book.
        """
        with self._open() as book:
            for signed in receipts:
                _count(book, receipt_digest(self.domain, signed.receipt), receipt_charge(signed.receipt))
            (spent,) = book.execute("SELECT spent FROM total").fetchone()
        return self.sign(NanoUsd(spent))

    def sign(self, spent: NanoUsd) -> Consent:
        """Return a signed consent to `spent`, whatever was counted."""
        digest = consent_digest(self.domain, self.account, spent)
        return Consent(self.account, spent, self._key.sign_digest(digest))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give the book in a transaction that other processes wait for; it is durable at the end."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        book = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        try:
            book.execute("PRAGMA synchronous=FULL")
            book.execute("BEGIN IMMEDIATE")
            book.execute("CREATE TABLE IF NOT EXISTS counted (receipt BLOB PRIMARY KEY) WITHOUT ROWID")
            book.execute("CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY, spent INTEGER NOT NULL)")
            book.execute("INSERT OR IGNORE INTO total VALUES (1, 0)")
            yield book
            book.execute("COMMIT")
        finally:
            book.close()


def _count(book: sqlite3.Connection, receipt_id: bytes, charge: NanoUsd) -> None:
    if book.execute("INSERT OR IGNORE INTO counted VALUES (?)", (receipt_id,)).rowcount:
        book.execute("UPDATE total SET spent = spent + ?", (charge,))


def default_directory() -> Path:
    """Return where consent books are kept: `$TALLYSTICK_HOME/consents`, or `~/.tallystick/consents`."""
    return Path(os.environ.get("TALLYSTICK_HOME", "~/.tallystick")).expanduser() / "consents"


def key_from(secret: "SigningKey | bytes | str") -> SigningKey:
    """Return a signing key from a key, its 32 bytes or its hex."""
    match secret:
        case SigningKey():
            return secret
        case bytes():
            return SigningKey(secret)
        case str():
            return SigningKey(bytes.fromhex(secret.removeprefix("0x")))


def account_of(key: SigningKey, account: str | None) -> Address:
    """Return the account that `key` signs for: `account`, or the key's own address."""
    return key.address if account is None else to_address(account)
