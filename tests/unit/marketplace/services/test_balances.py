"""Every amount that cannot be spent is shown with its reason, its date and what releases it."""

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.errors import NotFound
from marketplace.domain.ports.clock import ManualClock
from marketplace.services import ledger
from marketplace.services.balances import Balances, BalanceStatement
from marketplace.storage.database import Database
from tallystick.protocol.money import NanoUsd
from tests.support.books import (
    ALICE,
    BOB,
    NOW,
    OPERATOR,
    TERMS,
    TREASURY,
    USD,
    email_account,
    hold,
    make_job,
    taken,
    wallet,
)


@pytest.fixture
def balances(database: Database) -> Balances:
    return Balances(database, TERMS, ManualClock(NOW))


def adds_up(statement: BalanceStatement) -> bool:
    return statement.available + sum(part.amount for part in statement.unavailable) == statement.balance


async def test_a_wallets_balance_is_what_is_available_and_what_is_not(
    balances: Balances, database: Database
) -> None:
    def work(session: Session) -> None:
        account_id = wallet(session, authorized=USD // 2)
        hold(session, make_job(account_id), expires_at=NOW + 5)
        ledger.note_withdrawal_request(session, ALICE, NanoUsd(USD // 10), NOW + 9)

    await database.write(work)
    statement = await balances.statement(ALICE)
    assert adds_up(statement)
    assert statement.available == USD // 2 + USD // 100 - 100_000
    assert [(part.amount, part.until, part.release_by) for part in statement.unavailable] == [
        (100_000, NOW + 5, "the end of the jobs"),
        (USD // 10, NOW + 9, "tallystick account withdraw"),
        (USD - USD // 10 - USD // 2 - USD // 100, None, "tallystick account authorize"),
    ]


async def test_what_wallets_may_not_begin_to_run_ahead_any_more_today_is_not_called_available(
    database: Database,
) -> None:
    terms = ledger.HoldTerms(NanoUsd(USD // 100), unsigned_daily=NanoUsd(USD // 100))
    balances = Balances(database, terms, ManualClock(NOW))
    for address in (ALICE, BOB):
        await database.write(lambda session, address=address: wallet(session, address, authorized=0))  # type: ignore[misc]
    assert (await balances.statement(BOB)).available == USD // 100

    job = make_job(ALICE, hold=NanoUsd(1000))
    await database.write(lambda session: ledger.open_hold(session, job, expires_at=NOW + 5, terms=terms))
    bob = await balances.statement(BOB)
    assert (bob.available, adds_up(bob)) == (0, True)
    assert (await balances.statement(ALICE)).available == USD // 100 - 1000


async def test_what_a_statement_calls_available_can_be_held_and_not_one_more(
    balances: Balances, database: Database
) -> None:
    await database.write(lambda session: wallet(session, authorized=USD // 2))
    available = (await balances.statement(ALICE)).available
    await database.write(lambda session: hold(session, make_job(ALICE, number=1, hold=available)))
    assert (await balances.statement(ALICE)).available == 0


async def test_credit_needs_no_rights(balances: Balances, database: Database) -> None:
    carol = await database.write(email_account)
    statement = await balances.statement(carol)
    assert (statement.available, statement.unavailable, statement.address) == (USD, (), None)


async def test_the_treasury_shows_what_it_promised(balances: Balances, database: Database) -> None:
    await database.write(email_account)
    await database.write(lambda session: ledger.credit_deposit(session, TREASURY, NanoUsd(7), "", NOW))
    statement = await balances.statement("treasury")
    assert adds_up(statement)
    assert (statement.available, statement.unavailable[0].amount) == (7, USD)


async def test_an_operator_sees_pending_and_matured_earnings(balances: Balances, database: Database) -> None:
    def work(session: Session) -> None:
        account_id = wallet(session)
        for number in (1, 2):
            job = hold(session, make_job(account_id, number=number))
            parts = [taken(job, matures_at=NOW + number)]
            ledger.capture(session, job.id, parts, finish=0, prompt_tokens=20, output_tokens=100, now=NOW)
        ledger.mature(session, NOW + 1, 10)

    await database.write(work)
    statement = await balances.operator_statement(OPERATOR)
    assert (statement.pending, statement.earned, statement.settled) == (34_200, 34_200, 0)
    assert statement.accruing_since == NOW + 1


async def test_nobody_has_no_statement(balances: Balances) -> None:
    with pytest.raises(NotFound):
        await balances.statement("nobody")
    with pytest.raises(NotFound):
        await balances.operator_statement(ALICE)
