"""Books full of work that was done, signed for and has matured, made in bulk instead of request by request.

What is in them is what requests would have left: jobs, receipts with their nodes' signatures, the journal and
the accounts' sums, so that `audit_books` finds nothing. Deposits are not in them; they come from the chain.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from alembic.script import ScriptDirectory
from sqlalchemy import bindparam, insert
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind, EntryKind
from marketplace.services import ledger
from marketplace.storage.engines import open_writer
from marketplace.storage.migrate import MIGRATIONS, upgrade
from marketplace.storage.prepared import Prepared
from marketplace.storage.tables import Account, Entry, JobRow, ReceiptRow
from tallystick.protocol.eip712 import Domain, consent_digest, offer_hash, receipt_digest
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NANO_PER_USD, NanoUsd
from tallystick.protocol.receipts import (
    Offer,
    Receipt,
    SignedReceipt,
    receipt_charge,
    receipt_fee_up,
)

NOW: Final = 1_760_000_000_000
OPERATORS: Final = 20
FEE_BPS: Final = 500
SPENT_EACH: Final = 2 * NANO_PER_USD
"""About what an account spends, however many receipts it takes, so that the same money is settled."""
TOKENS_EACH: Final = 1_000
BATCH: Final = 10_000
_encode = msgspec.msgpack.Encoder().encode

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is in the books, and under which contract it was signed."""

    receipts: int
    accounts: int
    domain: Domain
    treasury: Address

    @property
    def name(self) -> str:
        """A file name for these books and no others, nor those of another version."""
        version = ScriptDirectory(str(MIGRATIONS)).get_current_head()
        return f"books-{self.receipts}-{self.accounts}-{self.domain.contract[2:10]}-{version}.sqlite"

    @property
    def price(self) -> NanoUsd:
        """Nano-dollars per token at which the accounts spend about SPENT_EACH."""
        return NanoUsd(SPENT_EACH * self.accounts // (self.receipts * TOKENS_EACH))


def key(role: str, number: int) -> SigningKey:
    """Return the key of the consumer, operator or node of that number; the same each time."""
    return SigningKey(hashlib.sha256(f"tallystick/bench/{role}/{number}".encode()).digest())


def may_charge_ahead(consumer: int) -> bool:
    """Return whether this consumer authorizes on the chain; the others sign consents as they go."""
    return consumer % 2 == 0


def filled_books(folder: Path, plan: Plan) -> Path:
    """Return the file with these books, made if it is not there yet (a minute and a half a million)."""
    path = folder / plan.name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    for left in folder.glob(f"{fresh.name}*"):
        left.unlink()
    engine = open_writer(f"sqlite+pysqlite:///{fresh}")
    upgrade(engine)
    with Session(engine, expire_on_commit=False) as session:
        _fill(session, plan)
        session.commit()
    engine.dispose()
    fresh.replace(path)
    return path


def _fill(session: Session, plan: Plan) -> None:
    ledger.ensure_treasury(session, plan.treasury, NOW)
    sums = _Sums(Counter(), Counter())
    consumers = [key("consumer", number).address for number in range(plan.accounts)]
    operators = [key("operator", number).address for number in range(OPERATORS)]
    nodes = [key("node", number) for number in range(OPERATORS)]
    for first in range(0, plan.receipts, BATCH):
        jobs: list[Row] = []
        receipts: list[Row] = []
        entries: list[Row] = []
        for number in range(first, min(first + BATCH, plan.receipts)):
            consumer = consumers[number % plan.accounts]
            operator, node = operators[number % OPERATORS], nodes[number % OPERATORS]
            signed = _receipt(plan, number, consumer, node)
            row = _receipt_row(plan, signed, operator)
            receipts.append(row)
            jobs.append(_job_row(signed, consumer))
            entries += _entries(row, sums)
        _JOBS.run_all(session, jobs)
        _RECEIPTS.run_all(session, receipts)
        _ENTRIES.run_all(session, entries)
        session.commit()
    _store_accounts(session, plan, sums, operators)


@dataclass
class _Sums:
    spent: Counter[str]
    earned: Counter[str]


def _receipt(plan: Plan, number: int, consumer: Address, node: SigningKey) -> SignedReceipt:
    job_id = hashlib.sha256(number.to_bytes(8, "big")).digest()
    offer = Offer(
        job_id=job_id,
        attempt=0,
        prompt_commitment=job_id[::-1],
        parameters_hash=b"\x14" * 32,
        job_seed=job_id,
        first_position=0,
        input_price=plan.price,
        output_price=plan.price,
    )
    receipt = Receipt(
        offer_hash=offer_hash(offer),
        account=consumer,
        node=node.address,
        model_id=b"\x13" * 32,
        output_commitment=job_id[16:] + job_id[:16],
        prompt_tokens=500 + job_id[0],
        output_tokens=250 + job_id[1],
        finish=0,
        text_bytes=1_200,
        sketch_root=bytes(32),
        numerics_class=bytes(32),
        fee_bps=FEE_BPS,
        started_at=NOW,
        finished_at=NOW + 2_000,
        block_number=1,
        nonce=job_id,
        **msgspec.structs.asdict(offer),
    )
    digest = receipt_digest(plan.domain, receipt)
    return SignedReceipt(receipt=receipt, signature=node.sign_digest(digest))


def _receipt_row(plan: Plan, signed: SignedReceipt, operator: Address) -> Row:
    receipt = signed.receipt
    return {
        "id": receipt_digest(plan.domain, receipt),
        "job_id": receipt.job_id,
        "attempt": 0,
        "account_id": receipt.account,
        "payer_id": receipt.account,
        "operator_id": operator,
        "node": receipt.node,
        "charge": receipt_charge(receipt),
        "fee": receipt_fee_up(receipt),
        "body": _encode(signed),
        "taken_at": NOW + 2_000,
        "taken_epoch": 8,
        "taken_signature": signed.signature,
        "matures_at": NOW + 62_000,
        "matured": True,
        "batch": 0,
    }


def _job_row(signed: SignedReceipt, consumer: Address) -> Row:
    receipt = signed.receipt
    charge = receipt_charge(receipt)
    return {
        "id": receipt.job_id,
        "account_id": consumer,
        "key_id": "",
        "model_id": receipt.model_id,
        "model_name": "bench",
        "state": "done",
        "hold": charge,
        "charge": charge,
        "input_price": receipt.input_price,
        "output_price": receipt.output_price,
        "fee_bps": receipt.fee_bps,
        "prompt_tokens": receipt.prompt_tokens,
        "output_tokens": receipt.output_tokens,
        "finish": 0,
        "accepted_at": NOW,
        "expires_at": NOW + 900_000,
        "finished_at": NOW + 2_000,
    }


def _entries(receipt: Row, sums: _Sums) -> Iterator[Row]:
    """Give the journal's lines of a capture, and add them to the sums."""
    charge, fee = receipt["charge"], receipt["fee"]
    sums.spent[receipt["payer_id"]] += charge
    sums.earned[receipt["operator_id"]] += charge - fee
    sums.earned[TREASURY_ID] += fee
    reference = receipt["job_id"].hex()
    for owner, kind, amount in (
        (receipt["payer_id"], EntryKind.CHARGE, -charge),
        (receipt["operator_id"], EntryKind.EARNING, charge - fee),
        (TREASURY_ID, EntryKind.FEE, fee),
    ):
        yield {
            "at": NOW + 2_000,
            "account_id": owner,
            "kind": kind.value,
            "amount": amount,
            "reference": reference,
        }


def _store_accounts(session: Session, plan: Plan, sums: _Sums, operators: Sequence[Address]) -> None:
    for number in range(plan.accounts):
        signer = key("consumer", number)
        spent = NanoUsd(sums.spent[signer.address])
        account = _account(signer.address)
        # Below zero until the deposit is read from the chain.
        account.balance, account.spent, account.spent_matured = -spent, spent, spent
        if spent and not may_charge_ahead(number):
            account.consented = spent
            digest = consent_digest(plan.domain, signer.address, spent)
            account.consent_signature = signer.sign_digest(digest)
        session.add(account)
    for operator in operators:
        account = _account(operator)
        account.earned = sums.earned[operator]
        session.add(account)
    treasury = session.get_one(Account, TREASURY_ID)
    treasury.earned = sums.earned[TREASURY_ID]
    session.flush()


def _account(address: Address) -> Account:
    return Account(
        id=address,
        kind=AccountKind.WALLET.value,
        address=address,
        created_at=NOW,
        spent_since=NOW + 62_000,
        earned_since=NOW + 62_000,
    )


def _insert(table: Any, names: Sequence[str]) -> Prepared:
    return Prepared(insert(table).values({name: bindparam(name) for name in names}))


_RECEIPTS = _insert(
    ReceiptRow.__table__,  # type: ignore[attr-defined]
    (
        *("id", "job_id", "attempt", "account_id", "payer_id", "operator_id", "node", "charge", "fee"),
        *("body", "taken_at", "taken_epoch", "taken_signature", "matures_at", "matured", "batch"),
    ),
)
_JOBS = _insert(
    JobRow.__table__,  # type: ignore[attr-defined]
    (
        *("id", "account_id", "key_id", "model_id", "model_name", "state", "hold", "charge"),
        *("input_price", "output_price", "fee_bps", "prompt_tokens", "output_tokens", "finish"),
        *("accepted_at", "expires_at", "finished_at"),
    ),
)
_ENTRIES = _insert(Entry.__table__, ("at", "account_id", "kind", "amount", "reference"))  # type: ignore[attr-defined]
