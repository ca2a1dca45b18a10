"""Valid jobs and receipts of the market, each with any field overridden, and books to put them in."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.jobs import AcceptedJob, JobRequest
from marketplace.domain.receipts import TakenReceipt
from marketplace.services import ledger
from marketplace.storage.engines import open_writer
from marketplace.storage.migrate import upgrade
from marketplace.storage.queries import accounts
from marketplace.storage.tables import ApiKey
from tallystick.protocol.ids import Address, JobId, ModelId, ReceiptId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Receipt, SignedReceipt

NOW = 1_700_000_000_000
USD = 1_000_000_000
TREASURY = Address("0x" + "aa" * 20)
ALICE = Address("0x" + "a1" * 20)
BOB = Address("0x" + "b0" * 20)
OPERATOR = Address("0x" + "0e" * 20)
NODE = Address("0x" + "0d" * 20)
TERMS = ledger.HoldTerms(unsigned_allowance=NanoUsd(USD // 100))


def fresh_books(folder: Path) -> Iterator[Session]:
    """Give a session on new books with a treasury; use it as a fixture."""
    engine = open_writer(f"sqlite+pysqlite:///{folder}/books.sqlite")
    upgrade(engine)
    with Session(engine, expire_on_commit=False) as session:
        ledger.ensure_treasury(session, TREASURY, NOW)
        yield session
    engine.dispose()


@contextmanager
def undone(session: Session) -> Iterator[None]:
    """Take back what a refused work did, as the database's writer does."""
    nested = session.begin_nested()
    try:
        yield
    finally:
        nested.rollback()


def wallet(
    session: Session, address: Address = ALICE, *, balance: int = USD, authorized: int = 10 * USD
) -> str:
    """Make a wallet account with a deposit that it authorized."""
    account_id = ledger.credit_deposit(session, address, NanoUsd(balance), "deposit", NOW)
    ledger.set_authorized(session, address, NanoUsd(authorized))
    return account_id


def email_account(session: Session, *, credit: int = USD, name: str = "carol") -> str:
    """Make an account on credit, out of a treasury deposit that covers it exactly."""
    accounts.create(session, name, AccountKind.EMAIL, NOW, email=f"{name}@example.com")
    ledger.credit_deposit(session, TREASURY, NanoUsd(credit), "deposit", NOW)
    ledger.grant_credit(session, name, NanoUsd(credit), "", NOW)
    return name


def api_key(session: Session, account_id: str, *, cap: int | None = None, name: str = "key") -> str:
    """Make a key of the account."""
    key_id = f"{account_id}/{name}"
    digest = hashlib.sha256(key_id.encode()).digest()
    session.add(ApiKey(id=key_id, account_id=account_id, hash=digest, prefix="tsk_", cap=cap, created_at=NOW))
    session.flush()
    return key_id


def make_job(account_id: str, *, number: int = 1, key_id: str = "", **fields: Any) -> AcceptedJob:
    """Return an accepted job of `account_id` with 20 prompt tokens at 300 and a hold of 100,000."""
    request = JobRequest(
        account_id=account_id,
        key_id=key_id,
        payer=ALICE,
        model_id=ModelId(b"\x13" * 32),
        model_name="echo",
        prompt_ids=tuple(range(20)),
        prompt_text="",
        parameters=Parameters(),
    )
    given: dict[str, Any] = {
        "id": JobId(number.to_bytes(32, "big")),
        "request": request,
        "seed": bytes(32),
        "salt": bytes(32),
        "input_price": NanoUsd(300),
        "output_price": NanoUsd(300),
        "fee_bps": 500,
        "hold": NanoUsd(100_000),
        "accepted_at_ms": NOW,
    }
    return AcceptedJob(**(given | fields))


def hold(session: Session, job: AcceptedJob, *, expires_at: int = NOW + 60_000) -> AcceptedJob:
    """Open the job's hold."""
    ledger.open_hold(session, job, expires_at=expires_at, terms=TERMS)
    return job


def taken(
    job: AcceptedJob,
    *,
    attempt: int = 0,
    operator: Address = OPERATOR,
    matures_at: int = NOW + 1000,
    **fields: Any,
) -> TakenReceipt:
    """Return a taken receipt for `job`: 20 tokens in and 100 out unless said otherwise."""
    given: dict[str, Any] = {
        "job_id": job.id,
        "attempt": attempt,
        "offer_hash": b"\x12" * 32,
        "account": job.request.payer,
        "node": NODE,
        "model_id": job.request.model_id,
        "parameters_hash": b"\x14" * 32,
        "job_seed": job.seed,
        "prompt_commitment": b"\x16" * 32,
        "output_commitment": b"\x17" * 32,
        "prompt_tokens": 20,
        "output_tokens": 100,
        "first_position": 0,
        "finish": 0,
        "text_bytes": 420,
        "sketch_root": bytes(32),
        "numerics_class": bytes(32),
        "input_price": job.input_price,
        "output_price": job.output_price,
        "fee_bps": job.fee_bps,
        "started_at": NOW,
        "finished_at": NOW + 500,
        "block_number": 99,
        "nonce": bytes(32),
    }
    receipt = Receipt(**(given | fields))
    receipt_id = ReceiptId(hashlib.sha256(job.id + attempt.to_bytes(4, "big")).digest())
    return TakenReceipt(
        signed=SignedReceipt(receipt=receipt, signature=bytes(65)),
        id=receipt_id,
        operator=operator,
        taken_epoch=7,
        taken_signature=b"\x01" * 65,
        matures_at=matures_at,
    )
