"""All that happens in the books, once, on every database: what SQLite forgives, PostgreSQL does not."""

from dataclasses import dataclass, field

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from marketplace.domain.ports.clock import ManualClock
from marketplace.domain.ports.mail import Mail
from marketplace.services import ledger
from marketplace.services.accounts import AccountRules, Accounts
from marketplace.services.audit_books import audit_books
from marketplace.services.balances import Balances
from marketplace.services.keys import KeyRing, KeyTerms
from marketplace.storage.database import Database
from marketplace.storage.queries import entries, receipts
from tallystick.protocol.money import NanoUsd
from tests.support.books import ALICE, BOB, NOW, OPERATOR, TERMS, TREASURY, USD, hold, make_job, taken

RULES = AccountRules(True, True, NanoUsd(USD), 3_600_000, 600_000, "https://market.example")
CHARGE, FEE = 36_000, 1_800


@dataclass
class Postbox:
    """Keeps the mails."""

    mails: list[Mail] = field(default_factory=list)

    async def send(self, mail: Mail) -> None:
        self.mails.append(mail)

    def token(self) -> str:
        """Return the token in the last mail."""
        return self.mails[-1].text.partition("token=")[2].split()[0]


async def test_the_schema_is_that_of_the_tables(books_url: str) -> None:
    await (await Database.open(books_url)).close()
    engine = create_engine(books_url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    engine.dispose()


async def test_a_whole_life(database: Database) -> None:
    clock, postbox = ManualClock(NOW), Postbox()
    people, ring = Accounts(database, clock, postbox, RULES), KeyRing(database, clock)
    balances = Balances(database, TERMS, clock)
    await database.write(lambda session: ledger.ensure_treasury(session, TREASURY, NOW))
    await database.write(lambda session: ledger.credit_deposit(session, TREASURY, NanoUsd(2 * USD), "t", NOW))

    await people.sign_up_email("carol@example.com")
    carol = await people.verify_email(postbox.token())
    assert carol.credit == USD
    assert carol.key is not None
    by_wallet = await people.sign_in_wallet(ALICE, (await people.new_nonce())[0])
    key = await ring.create_key(by_wallet.account_id, KeyTerms(cap=NanoUsd(USD)))
    assert (await ring.authenticate(key.secret)).payer == ALICE
    assert (await ring.authenticate(carol.key.secret)).payer == TREASURY

    def chain(session: Session) -> None:
        ledger.credit_deposit(session, ALICE, NanoUsd(USD), "a", NOW)
        ledger.set_authorized(session, ALICE, NanoUsd(USD // 2))
        ledger.add_consent_key(session, ALICE, BOB)
        ledger.add_consent_key(session, ALICE, BOB)
        assert ledger.store_consent(session, ALICE, NanoUsd(USD), bytes(65))
        ledger.note_withdrawal_request(session, ALICE, NanoUsd(1000), NOW)
        ledger.apply_withdrawal(session, ALICE, NanoUsd(1000), "w", NOW)
        ledger.undo_withdrawal(session, ALICE, NanoUsd(1000), "w", NOW)
        ledger.note_withdrawal_request(session, ALICE, NanoUsd(0), 0)

    await database.write(chain)

    def jobs(session: Session) -> None:
        for number, (account_id, key_id) in enumerate(
            [(ALICE, key.view.id), (carol.account_id, ""), (ALICE, ""), (ALICE, key.view.id)]
        ):
            hold(session, make_job(account_id, number=number, key_id=key_id))
        for number, account_id in ((0, ALICE), (1, carol.account_id)):
            job = make_job(account_id, number=number)
            parts = [taken(job)]
            ledger.capture(session, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW)
        failed = make_job(ALICE, number=2)
        ledger.release(session, failed.id, [taken(failed)], error="nodes_failed", now=NOW)
        assert len(ledger.expire_holds(session, NOW + 60_000)) == 1
        assert ledger.take_late(session, taken(make_job(ALICE, number=3)), NOW) == CHARGE
        assert [ledger.mature(session, NOW + 1000, limit) for limit in (3, 3, 3)] == [3, 1, 0]

    await database.write(jobs)

    def settlement(session: Session) -> None:
        ledger.mark_charge_settled(session, ALICE, NanoUsd(CHARGE), sealed_at=NOW)
        ledger.mark_payout_settled(session, OPERATOR, NanoUsd(4 * (CHARGE - FEE)), sealed_at=NOW)
        assert ledger.note_acknowledged(session, OPERATOR, NanoUsd(CHARGE), 3)
        ledger.treasury_advance(session, NanoUsd(3 * CHARGE), "epoch 1", NOW)
        ledger.settle_credit(session, NanoUsd(CHARGE), "epoch 1", NOW)
        assert ledger.revoke_credit(session, carol.account_id, NanoUsd(2 * USD), "", NOW) == USD - CHARGE

    await database.write(settlement)
    statement, operator = await balances.statement(ALICE), await balances.operator_statement(OPERATOR)
    assert (statement.balance, statement.spent, statement.settled) == (USD - CHARGE, CHARGE, CHARGE)
    assert (operator.earned, operator.pending, operator.accruing_since) == (4 * (CHARGE - FEE), 0, None)
    report = await database.read(audit_books)
    assert [str(finding) for finding in report.findings] == []
    assert (report.receipts, report.charged) == (4, 4 * CHARGE)
    mine = await database.read(lambda session: receipts.of_account(session, ALICE, after=None, limit=9))
    assert [row.charge for row in mine] == [CHARGE]
    assert (
        await database.read(lambda session: receipts.of_account(session, ALICE, after=mine[0].id, limit=9))
        == []
    )
    lines = await database.read(lambda session: entries.of_account(session, ALICE, limit=2))
    assert [line.kind for line in lines] == ["charge", "withdrawal_undone"]
    clock.advance(RULES.session_ms)
    assert await people.sweep() == 2
