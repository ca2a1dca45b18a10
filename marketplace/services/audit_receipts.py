"""Receipts one by one: what the node signed is what the books say of it, and who signed is who they name.

Each row is held against its own body: id, job, attempt, node, charge and fee, the node's signature, and the
coordinator's `Taken`. A consent is held against its signature.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.services.audit_books import Finding
from marketplace.storage.queries.accounts import A
from marketplace.storage.queries.jobs import J
from marketplace.storage.queries.receipts import R
from marketplace.storage.tables import ConsentKey
from tallystick.protocol.eip712 import BadField, Domain, consent_digest, receipt_digest, taken_digest
from tallystick.protocol.ids import Address, ReceiptId, to_hex
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.receipts import Receipt, SignedReceipt, receipt_charge, receipt_fee_up

K = ConsentKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it
ROWS_A_READ = 1_000
_decode = msgspec.msgpack.Decoder(SignedReceipt).decode


def audit_receipts(session: Session, domain: Domain, takers: set[Address]) -> Iterator[Finding]:
    """Check every receipt; `takers` is filled with whoever signed that it was taken."""
    statement = (
        select(R, J.c.id.label("job"), J.c.account_id.label("of"), A.c.address.label("payable_by"))
        .join(J, J.c.id == R.c.job_id, isouter=True)
        .join(A, A.c.id == R.c.account_id, isouter=True)
        .execution_options(yield_per=ROWS_A_READ)
    )
    for row in session.execute(statement):
        subject = f"receipt {to_hex(row.id)}"
        try:
            signed = _decode(row.body)
            receipt_id = receipt_digest(domain, signed.receipt)
            signer = recover(receipt_id, signed.signature)
            takers.add(recover(taken_digest(domain, ReceiptId(row.id), row.taken_epoch), row.taken_signature))
        except (msgspec.DecodeError, BadField, BadSignature) as error:
            yield Finding(subject, "it can be read and its signatures recovered", detail=str(error))
            continue
        yield from _against_body(subject, row, signed.receipt, receipt_id, signer)


def _against_body(
    subject: str, row: Any, receipt: Receipt, receipt_id: ReceiptId, signer: Address
) -> Iterator[Finding]:
    charge, fee = receipt_charge(receipt), receipt_fee_up(receipt)
    if row.charge != charge:
        yield Finding(subject, "the charge is what the node signed", charge, row.charge)
    if row.fee != fee:
        yield Finding(subject, "the market's share follows from what the node signed", fee, row.fee)
    pairs = [
        ("its id is its own digest", receipt_id, row.id),
        ("the job is the one signed for", receipt.job_id, row.job_id),
        ("the attempt is the one signed for", receipt.attempt, row.attempt),
        ("the node is the one that signed", signer, row.node),
        ("the job is in the books", row.job_id, row.job),
        ("the account is its job's", row.of, row.account_id),
    ]
    if row.payable_by is not None:
        # An account without a wallet is signed for under the treasury's address.
        pairs.append(("the account is the one signed for", receipt.account, row.payable_by))
    for rule, expected, found in pairs:
        if expected != found:
            yield Finding(subject, rule, detail=f"expected {_text(expected)}, found {_text(found)}")


def audit_consents(session: Session, domain: Domain) -> Iterator[Finding]:
    """Check that every consent that is kept is signed by its account, or a key that may sign for it."""
    keys: dict[str, set[str]] = {}
    for account_id, key in session.execute(select(K.c.account_id, K.c.address)):
        keys.setdefault(account_id, set()).add(key)
    statement = select(A.c.id, A.c.address, A.c.consented, A.c.consent_signature).where(A.c.consented > 0)
    for account_id, address, consented, signature in session.execute(statement):
        try:
            signer: str = recover(consent_digest(domain, address, consented), signature or b"")
        except BadSignature as error:
            signer = f"nobody ({error})"
        if signer not in {address} | keys.get(account_id, set()):
            detail = f"the consent to {consented} nano-dollars is signed by {signer}"
            yield Finding(account_id, "its consent is its own", detail=detail)


def _text(value: object) -> str:
    return to_hex(value) if isinstance(value, bytes) else str(value)
