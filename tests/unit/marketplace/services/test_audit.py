"""The whole audit on a market that has settled, on a real chain: any one value that is changed is found."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.orm import Session

from marketplace.chain.witness import EvmWitness
from marketplace.domain.receipts import TakenReceipt
from marketplace.services import audit_chain, audit_events, ledger
from marketplace.services.audit import Chainside, audit
from marketplace.services.audit_books import Finding
from marketplace.services.pruning import prune
from marketplace.services.settlement import EpochFiles
from marketplace.storage.database import Database
from marketplace.storage.engines import open_reader, open_writer
from tallystick.anvil import anvil_key
from tallystick.protocol.eip712 import Domain, offer_hash, receipt_digest, sign_receipt, taken_digest
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import offer_of
from tests.support import books
from tests.support.anvil import COORDINATOR, USD
from tests.support.chains import EvmDriver, address
from tests.support.nodes import key_of
from tests.support.settling import Town, town

pytestmark = [pytest.mark.anvil, pytest.mark.slow]

ALICE, BOB, CAROL, OPERATOR, RIVAL = 3, 4, 5, 6, 7
MONEY = {
    "account": (
        ("balance", "address IS NOT NULL"),
        ("balance", "kind = 'email'"),
        ("balance", "kind = 'treasury'"),
        ("held", "id <> 'treasury'"),
        ("requested", "requested > 0"),
        ("requested_payable_at", "requested > 0"),
        ("granted", "kind = 'treasury'"),
        ("deposited", "deposited > 0"),
        ("withdrawn", "withdrawn > 0"),
        ("spent", "spent > 0"),
        ("spent_matured", "spent > 0"),
        ("spent_settled", "kind = 'wallet' AND spent_settled > 0"),
        ("spent_settled", "kind = 'treasury'"),
        ("authorized", "authorized > 0 AND kind = 'wallet'"),
        ("consented", "consented > 0"),
        ("consent_signature", "consented > 0"),
        ("earned_pending", "kind = 'wallet'"),
        ("earned", "earned > 0"),
        ("earned_settled", "earned_settled > 0 AND earned_settled < earned"),
        ("acknowledged", "acknowledged = earned AND earned > 0"),
        ("address", "kind = 'wallet' AND spent > 0"),
        ("kind", "kind = 'wallet' AND spent > 0"),
    ),
    "api_key": (("held", "1"), ("spent", "1")),
    "job": (
        ("charge", "charge > 0"),
        ("hold", "state = 'accepted'"),
        ("state", "state = 'accepted'"),
        ("state", "state = 'done'"),
        ("account_id", "charge > 0"),
        ("account_id", "state = 'accepted'"),
        ("key_id", "key_id <> ''"),
    ),
    "receipt": tuple(
        (column, condition)
        for column in (
            *("id", "job_id", "attempt", "account_id", "payer_id", "operator_id", "node", "charge", "fee"),
            *("body", "taken_epoch", "taken_signature", "matured", "batch"),
        )
        for condition in ("batch IS NOT NULL", "batch IS NULL")
        if column != "batch" or condition == "batch IS NOT NULL"
    ),
    "entry": (
        ("amount", "1"),
        ("account_id", "1"),
        ("kind", "kind = 'charge'"),
        ("reference", "kind = 'advance'"),
    ),
    "epoch": tuple(
        (column, "1")
        for column in (
            *("receipts_root", "receipt_count", "file_hash", "chunks", "audit_secret", "next_audit_secret"),
            "state",
        )
    )
    + (("last_batch", "number = (SELECT max(number) FROM epoch)"),),
    "open_batch": (),
    "settlement_row": tuple(
        (column, f"kind = '{kind}' AND account_id <> 'treasury'")
        for kind in ("charge", "payout")
        for column in ("amount", "before", "address", "account_id", "chunk", "position", "kind", "epoch")
    )
    + (("consent_spent", "consent_spent > 0"), ("consent_signature", "consent_spent > 0")),
    "chain_event": tuple(
        (column, "kind = 'deposit'")
        for column in ("transaction", "log_index", "kind", "account_id", "amount")
    )
    + (("amount", "kind = 'withdrawal'"),),
    "chain_cursor": (("block_hash", "name = 'confirmed'"), ("block_hash", "name = 'fresh'")),
    "transaction_out": (("raw", "1"), ("hash", "1")),
}
"""Every column that says whose money is where, with a condition for the row whose value is changed."""
KEPT = {
    "pruned_receipt": (("id", "1"), ("epoch", "1")),
    "pruned_sum": (("amount", "1"), ("owner", "1")),
}
LOST = {
    "account",
    "job",
    "receipt",
    "entry",
    "epoch",
    "open_batch",
    "settlement_row",
    "chain_event",
    "pruned_receipt",
    "pruned_sum",
}


def signed_by_nodes(domain: Domain) -> Callable[..., TakenReceipt]:
    """Return what makes receipts as `books.taken` does, but with signatures that hold."""
    plain = books.taken

    def taken(job: Any, **fields: Any) -> TakenReceipt:
        made = plain(job, node=key_of(1).address, **fields)
        receipt = made.signed.receipt
        receipt = msgspec.structs.replace(receipt, offer_hash=offer_hash(offer_of(receipt)))
        receipt_id = receipt_digest(domain, receipt)
        word = anvil_key(COORDINATOR).sign_digest(taken_digest(domain, receipt_id, made.taken_epoch))
        return replace(
            made, signed=sign_receipt(domain, receipt, key_of(1)), id=receipt_id, taken_signature=word
        )

    return taken


@pytest.fixture
async def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    """A town with a bit of everything: two epochs, consents, credit, a cheque, a withdrawal, open work."""
    for module in (audit_chain, audit_events):
        monkeypatch.setattr(module, "PAUSE_S", 0.01)
    async with town("anvil", tmp_path, rows_per_chunk=2) as made:
        monkeypatch.setattr(books, "taken", signed_by_nodes(made.driver.domain))
        await live(made)
        yield made


async def live(made: Town) -> None:
    """Two epochs of work, and what goes on after them."""
    alice = await made.consumer(ALICE, 10 * USD, authorized=10 * USD)
    bob = await made.consumer(BOB, 10 * USD)
    carol = await made.consumer(CAROL, 5 * USD, authorized=USD)
    dave = await made.on_credit("dave", 5 * USD)
    await made.database.write(lambda session: books.api_key(session, alice))
    for account_id in (alice, bob, dave):
        await made.work(account_id, OPERATOR, 2 * USD + 1)
    await made.sign(BOB, 2 * USD + 1)
    await made.end_epoch()
    await made.settle()
    await made.work(alice, RIVAL, USD + 7, key_id=f"{alice}/key")
    await made.work(bob, OPERATOR, 3 * USD)
    await made.end_epoch()
    await made.settle()
    await made.driver.request_withdrawal(CAROL, 2 * USD)
    await made.driver.wait(500)
    await made.driver.withdraw(CAROL)
    await made.driver.request_withdrawal(ALICE, USD)
    await made.confirm()
    await made.work(carol, OPERATOR, 5_000)
    await made.work(alice, OPERATOR, 7_000, matures=False)

    operator = await made.account(address(OPERATOR))

    def leave_a_hold(session: Session) -> None:
        books.hold(session, books.make_job(alice, number=999, key_id=f"{alice}/key"))
        ledger.note_acknowledged(session, operator.id, NanoUsd(operator.earned), 3)

    await made.database.write(leave_a_hold)


async def findings(made: Town, url: str) -> list[Finding]:
    """Return what the audit finds in the books at `url`."""
    assert isinstance(made.driver, EvmDriver)
    market = made.driver.market
    side = Chainside(made.driver.chain, EvmWitness(market.connection, market.deployment), 0)
    database = Database(open_writer(url), open_reader(url))
    try:
        report = await audit(database, EpochFiles(made.folder / "epochs"), made.driver.domain, side)
    finally:
        await database.close()
    return list(report.findings)


def changed(value: Any, column: str, others: list[Any]) -> Any:
    """Return another value of the same kind, an existing one where others know it."""
    if column in ("account_id", "payer_id", "operator_id", "owner"):
        return next(one for one in others if one != value)
    if column == "state":
        return {"closed": "sealed", "accepted": "failed"}.get(value, "failed")
    if column == "kind":
        return {"wallet": "email", "charge": "payout", "payout": "charge", "deposit": "withdrawal"}[value]
    if isinstance(value, bytes):
        return bytes((value[0] ^ 128,)) + value[1:]
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return value + (5 if column == "epoch" else 1)


def damage(path: Path, table: str, column: str, condition: str) -> str:
    """Change one value; return what was changed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        found = connection.execute(
            f'SELECT rowid, "{column}" FROM "{table}" WHERE {condition} ORDER BY rowid'
        ).fetchone()
        assert found is not None, (table, column, condition)
        ids = [
            row[0] for row in connection.execute("SELECT id FROM account WHERE kind <> 'email' ORDER BY id")
        ]
        fresh = changed(found[1], column, ids)
        connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (fresh, found[0]))
    return f"{table}.{column} where {condition}: {found[1]!r} → {fresh!r}"


def copy(source: Path, target: Path) -> str:
    """Copy a database that is open; return the copy's URL."""
    for rest in ("", "-wal", "-shm"):
        target.with_name(target.name + rest).unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
    return f"sqlite+pysqlite:///{target}"


async def missed(made: Town, columns_of: dict[str, Any]) -> list[str]:
    """Return which changes of one value, or losses of one row, the audit does not find."""
    source, target = made.folder / "books.sqlite", made.folder / "copy.sqlite"
    assert [str(one) for one in await findings(made, copy(source, target))] == []
    found_nothing = []
    for table, columns in columns_of.items():
        for column, condition in columns:
            url = copy(source, target)
            what = damage(target, table, column, condition)
            if not await findings(made, url):
                found_nothing.append(what)
        url = copy(source, target)
        if table in LOST:
            lose(target, table)
            if not await findings(made, url):
                found_nothing.append(f"a lost row of {table}")
    return found_nothing


def lose(path: Path, table: str) -> None:
    """Delete one row."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})")


async def test_any_one_value_that_is_changed_and_any_row_that_is_lost_is_found(settled: Town) -> None:
    found_nothing = await missed(settled, MONEY)
    pruned = await prune(settled.database, settled.files, 2**60)
    assert pruned.receipts == 5
    found_nothing += await missed(settled, KEPT)
    assert not found_nothing, "\n".join(found_nothing)


async def test_what_is_on_its_way_is_no_finding(settled: Town, tmp_path: Path) -> None:
    """An epoch half sent, a deposit without its confirmations, a withdrawal that was not read yet."""
    for who, charge in ((ALICE, 11_000), (BOB, 12_000)):
        await settled.work(address(who), RIVAL, charge)
    await settled.driver.deposit(CAROL, USD)
    await settled.end_epoch()
    for _ in range(12):
        url = copy(tmp_path / "books.sqlite", tmp_path / "copy.sqlite")
        assert [str(one) for one in await findings(settled, url)] == []
        await settled.settlement.step()
        await settled.driver.mine()
    await settled.settle()
    await settled.check()
