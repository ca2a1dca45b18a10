"""The ledger against a model of the books: whatever happens in whatever order, the two agree.

Laws:
    every account's columns are those of the model
    what is shown as available can be held, and not one more
    the books add up (`audit_books`), at the end: what is wrong in the journal stays wrong
    Σ spent = Σ earned, matured or not
"""

from collections.abc import Callable
from types import NoneType
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.errors import Conflict, MarketError, PaymentRequired, Refused
from marketplace.domain.jobs import AcceptedJob
from marketplace.domain.receipts import TakenReceipt
from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.services.balances import statement
from marketplace.services.ledger.credit import TreasuryShort
from marketplace.storage.prepared import DRIVER
from marketplace.storage.queries import accounts
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import receipt_charge, receipt_fee_up
from tests.support.books import NOW, TERMS, TREASURY, api_key, make_job, taken
from tests.support.ledger_model import WHOLE_MODEL, Books, Model, OpenJob, Unripe
from tests.support.machines import machine_settings, place

WALLETS = [Address("0x" + f"{number:040x}") for number in (1, 2)]
EMAILS = ["carol", "dave"]
OPERATORS = [Address("0x" + "0e" * 20), WALLETS[0], TREASURY]
CHAIN_EVENTS = ["deposit", "undo", "authorize", "consent", "request_withdrawal", "withdraw"]
amounts = st.integers(1, 400_000)
plenty = st.integers(300_000, 1_500_000)


class LedgerMachine(RuleBasedStateMachine):
    """Drives the ledger and the model side by side."""

    jobs: Bundle[OpenJob] = Bundle("jobs")
    failed: Bundle[tuple[AcceptedJob, set[int]]] = Bundle("failed")

    def __init__(self) -> None:
        super().__init__()
        self.expired_to = 0
        self.steps = 0
        place().renew()
        self.session = Session(place().writer, expire_on_commit=False)
        self.driver: Any = self.session.connection().connection.driver_connection
        self.session.info[DRIVER] = self.driver
        self.model = Books()
        self.now = NOW
        self.number = 0
        ledger.ensure_treasury(self.session, TREASURY, NOW)
        for name in EMAILS:
            accounts.create(self.session, name, AccountKind.EMAIL, NOW, email=f"{name}@example.com")
        for address in WALLETS:
            ledger.ensure_wallet(self.session, address, NOW)
        for account_id, cap in ((WALLETS[0], 500_000), ("carol", 300_000)):
            self.model.caps[api_key(self.session, account_id, cap=cap)] = cap

    @initialize(
        deposits=st.lists(plenty, min_size=3, max_size=3),
        rights=st.lists(plenty, min_size=2, max_size=2),
        grants=st.lists(st.integers(100_000, 600_000), min_size=2, max_size=2),
    )
    def bring_money(self, deposits: list[int], rights: list[int], grants: list[int]) -> None:
        for address, amount in zip([*WALLETS, TREASURY], deposits, strict=True):
            self.deposit(address, amount)
        for address, right in zip(WALLETS, rights, strict=True):
            self.authorize(address, right)
        for name, credit in zip(EMAILS, grants, strict=True):
            self.grant(name, credit)

    def teardown(self) -> None:
        assert audit_books(self.session).findings == ()
        self.session.close()
        place().close()

    def of(self, account_id: str) -> Model:
        return self.model.accounts[account_id]

    def attempt(self, work: Callable[[], object]) -> MarketError | None:
        """Do `work` as the database's writer would: refused means undone."""
        self.driver.execute("SAVEPOINT work")
        try:
            work()
            self.session.flush()
        except MarketError as error:
            self.session.expunge_all()
            self.driver.execute("ROLLBACK TO SAVEPOINT work")
            return error
        self.driver.execute("RELEASE SAVEPOINT work")
        return None

    # The chain

    @rule(event=st.sampled_from(CHAIN_EVENTS), address=st.sampled_from(WALLETS), amount=amounts)
    def chain_event(self, event: str, address: Address, amount: int) -> None:
        getattr(self, event)(address, amount)

    @rule(amount=amounts)
    def deposit_of_the_treasury(self, amount: int) -> None:
        self.deposit(TREASURY, amount)

    def deposit(self, address: Address, amount: int) -> None:
        account_id = ledger.credit_deposit(self.session, address, NanoUsd(amount), "d", self.now)
        self.of(account_id).balance += amount

    def undo(self, address: Address, amount: int) -> None:
        ledger.undo_deposit(self.session, address, NanoUsd(amount), "d", self.now)
        self.of(address).balance -= amount

    def authorize(self, address: Address, right: int) -> None:
        ledger.set_authorized(self.session, address, NanoUsd(right))
        self.of(address).authorized = right

    def consent(self, address: Address, spent: int) -> None:
        grew = ledger.store_consent(self.session, address, NanoUsd(spent), bytes(65))
        assert grew == (spent > self.of(address).consented)
        self.of(address).consented = max(self.of(address).consented, spent)

    def request_withdrawal(self, address: Address, amount: int) -> None:
        ledger.note_withdrawal_request(self.session, address, NanoUsd(amount), self.now + 5)
        self.of(TREASURY_ID if address == TREASURY else address).requested = amount

    def withdraw(self, address: Address, _amount: int) -> None:
        model = self.of(address)
        amount = min(model.requested, model.balance)
        if amount > 0:
            ledger.apply_withdrawal(self.session, address, NanoUsd(amount), "w", self.now)
            model.balance -= amount
            model.requested = 0

    # Credit

    @rule(event=st.sampled_from(["grant", "revoke"]), name=st.sampled_from(EMAILS), amount=amounts)
    def credit(self, event: str, name: str, amount: int) -> None:
        getattr(self, event)(name, amount)

    def grant(self, name: str, amount: int) -> None:
        treasury = self.of(TREASURY_ID)
        fits = treasury.balance - treasury.granted - treasury.requested >= amount
        error = self.attempt(lambda: ledger.grant_credit(self.session, name, NanoUsd(amount), "", self.now))
        assert isinstance(error, TreasuryShort) == (not fits)
        if fits:
            treasury.granted += amount
            self.of(name).balance += amount

    def revoke(self, name: str, amount: int) -> None:
        model = self.of(name)
        revoked = ledger.revoke_credit(self.session, name, NanoUsd(amount), "", self.now)
        assert revoked == max(0, min(amount, model.balance - model.held))
        model.balance -= revoked
        self.of(TREASURY_ID).granted -= revoked

    # Jobs

    @rule(
        target=jobs,
        account_id=st.sampled_from([*WALLETS, *EMAILS]),
        hold=st.integers(0, 120_000),
        with_key=st.booleans(),
        lasts=st.integers(1, 60),
        prices=st.tuples(st.integers(0, 400), st.integers(0, 400)),
        fee_bps=st.sampled_from([0, 1, 333, 500, 10_000]),
    )
    def open_hold(
        self,
        account_id: str,
        hold: int,
        with_key: bool,
        lasts: int,
        prices: tuple[int, int],
        fee_bps: int,
    ) -> OpenJob | object:
        shown = statement(self.session, account_id, TERMS, self.now).available
        key_id = f"{account_id}/key" if with_key and f"{account_id}/key" in self.model.caps else ""
        self.number += 1
        job = make_job(
            account_id,
            number=self.number,
            key_id=key_id,
            hold=NanoUsd(hold),
            input_price=NanoUsd(prices[0]),
            output_price=NanoUsd(prices[1]),
            fee_bps=fee_bps,
        )
        fits = self._fits(account_id, hold)
        assert not hold or fits == (hold <= shown)
        if key_id:
            fits = fits and self.model.key_used[key_id] + hold <= self.model.caps[key_id]
        open_job = OpenJob(job, self.now + lasts)
        error = self.attempt(
            lambda: ledger.open_hold(self.session, job, expires_at=open_job.expires_at, terms=TERMS)
        )
        assert isinstance(error, PaymentRequired) == (not fits), error
        if error is not None:
            return multiple()
        self.model.held.append(open_job)
        self.of(account_id).held += hold
        self.model.key_used[key_id] += hold
        return open_job

    def _fits(self, account_id: str, hold: int) -> bool:
        model = self.of(account_id)
        fits = model.balance - model.held - model.requested >= hold
        if account_id in EMAILS:
            return fits
        right = max(model.authorized, model.consented) + TERMS.unsigned_allowance
        return fits and right - model.spent - model.held >= hold

    @rule(
        open_job=consumes(jobs),
        tokens=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 150)), max_size=3),
        operators=st.lists(st.sampled_from(OPERATORS), min_size=3, max_size=3),
        lag=st.integers(0, 30),
    )
    def capture(
        self, open_job: OpenJob, tokens: list[tuple[int, int]], operators: list[Address], lag: int
    ) -> None:
        job = open_job.job
        parts = [
            taken(
                job,
                attempt=number,
                operator=operators[number],
                prompt_tokens=given,
                output_tokens=made,
                matures_at=self.now + lag,
            )
            for number, (given, made) in enumerate(tokens)
        ]
        total = sum(receipt_charge(part.signed.receipt) for part in parts)
        error = self.attempt(
            lambda: ledger.capture(
                self.session, job.id, parts, finish=0, prompt_tokens=1, output_tokens=1, now=self.now
            )
        )
        if open_job.expires_at <= self.expired_to:
            assert isinstance(error, Conflict)
            return
        if total > job.hold:
            assert error is not None
            assert not isinstance(error, Refused)
            ledger.release(self.session, job.id, [], error="broken", now=self.now)
            self._give_back(open_job, 0)
            return
        assert error is None
        self._give_back(open_job, total)
        self._book(parts, job.request.account_id)
        assert isinstance(
            self.attempt(lambda: ledger.release(self.session, job.id, [], error="again", now=self.now)),
            Conflict,
        )

    @rule(target=failed, open_job=consumes(jobs), made=st.integers(0, 200), signed=st.booleans())
    def fail(self, open_job: OpenJob, made: int, signed: bool) -> object:
        job = open_job.job
        parts = [taken(job, attempt=0, output_tokens=made, matures_at=self.now)] if signed else []
        error = self.attempt(
            lambda: ledger.release(self.session, job.id, parts, error="nodes_failed", now=self.now)
        )
        if open_job.expires_at <= self.expired_to:
            assert isinstance(error, Conflict)
            return (job, set())
        assert error is None
        self._give_back(open_job, 0)
        self._book(parts, TREASURY_ID)
        return (job, {0} if signed else set())

    @rule(closed=failed, attempt=st.integers(0, 2), made=st.integers(0, 200))
    def late(self, closed: tuple[AcceptedJob, set[int]], attempt: int, made: int) -> None:
        job, paid = closed
        part = taken(job, attempt=attempt, output_tokens=made, matures_at=self.now)
        error = self.attempt(lambda: ledger.take_late(self.session, part, self.now))
        if attempt in paid:
            assert isinstance(error, Conflict)
        elif error is None:
            paid.add(attempt)
            self._book([part], TREASURY_ID)
        else:
            assert isinstance(error, Refused)

    @rule()
    def expire(self) -> None:
        self.expired_to = self.now
        forgotten = [one for one in self.model.held if one.expires_at <= self.now]
        assert len(ledger.expire_holds(self.session, self.now)) == len(forgotten)
        for one in forgotten:
            self._give_back(one, 0)

    def _give_back(self, open_job: OpenJob, charge: int) -> None:
        self.model.held.remove(open_job)
        job = open_job.job
        model = self.of(job.request.account_id)
        model.held -= job.hold
        model.balance -= charge
        model.spent += charge
        self.model.key_used[job.request.key_id] += charge - job.hold

    def _book(self, parts: list[TakenReceipt], payer: str) -> None:
        for part in parts:
            receipt = part.signed.receipt
            charge, fee = receipt_charge(receipt), receipt_fee_up(receipt)
            operator = TREASURY_ID if part.operator == TREASURY else part.operator
            self.of(operator).earned_pending += charge - fee
            self.of(TREASURY_ID).earned_pending += fee
            if payer == TREASURY_ID:
                self.of(TREASURY_ID).spent += charge
            self.model.unripe.append(Unripe(part.matures_at, payer, operator, charge, fee))

    # Time and settlement

    @rule(passed=st.integers(1, 15))
    def time_passes(self, passed: int) -> None:
        self.now += passed

    @rule()
    def mature(self) -> None:
        ripe = [one for one in self.model.unripe if one.matures_at <= self.now]
        assert ledger.mature(self.session, self.now, 10_000) == len(ripe)
        for one in ripe:
            self.model.unripe.remove(one)
            self.of(one.payer).spent_matured += one.charge
            for owner, amount in ((one.operator, one.charge - one.fee), (TREASURY_ID, one.fee)):
                self.of(owner).earned += amount
                self.of(owner).earned_pending -= amount

    @rule(address=st.sampled_from(WALLETS), share=st.integers(0, 100))
    def settle_charge(self, address: Address, share: int) -> None:
        model = self.of(address)
        amount = model.spent_matured * share // 100
        ledger.mark_charge_settled(self.session, address, NanoUsd(amount), sealed_at=self.now)
        model.spent_settled = max(model.spent_settled, amount)

    @rule(operator=st.sampled_from([*OPERATORS[:2], TREASURY_ID]), share=st.integers(0, 100))
    def settle_payout(self, operator: str, share: int) -> None:
        if accounts.find(self.session, operator) is None:
            return
        model = self.of(operator)
        amount = model.earned * share // 100
        ledger.mark_payout_settled(self.session, operator, NanoUsd(amount))
        model.earned_settled = max(model.earned_settled, amount)

    @precondition(lambda self: self.of(TREASURY_ID).balance > self.of(TREASURY_ID).granted)
    @rule(share=st.integers(0, 100))
    def advance(self, share: int) -> None:
        model = self.of(TREASURY_ID)
        amount = (model.balance - model.granted) * share // 100
        ledger.treasury_advance(self.session, NanoUsd(amount), "epoch", self.now)
        model.balance -= amount
        model.spent_settled += amount

    # Laws

    @invariant()
    def what_is_shown_as_available_can_be_held_and_not_one_more(self) -> None:
        self.steps += 1
        account_id, more = [*WALLETS, *EMAILS][self.steps // 2 % 4], self.steps % 2
        amount = statement(self.session, account_id, TERMS, self.now).available + more
        self.number += 1
        job = make_job(account_id, number=self.number, hold=amount)
        self.driver.execute("SAVEPOINT probe")
        outcome = self.attempt(lambda: ledger.open_hold(self.session, job, expires_at=self.now, terms=TERMS))
        self.driver.execute("ROLLBACK TO SAVEPOINT probe")
        self.driver.execute("RELEASE SAVEPOINT probe")
        if amount:
            assert isinstance(outcome, PaymentRequired if more else NoneType), (account_id, amount, outcome)

    @invariant()
    def every_account_is_as_the_model_says(self) -> None:
        self.session.flush()
        rows = {account_id: columns for account_id, *columns in self.driver.execute(WHOLE_MODEL)}
        for account_id, model in self.model.accounts.items():
            if account_id not in rows:
                assert model == Model()
                continue
            assert dict(zip(vars(model), rows[account_id], strict=True)) == vars(model), account_id

    @invariant()
    def no_money_is_made_or_lost(self) -> None:
        models = self.model.accounts
        spent = sum(model.spent for model in models.values())
        earned = sum(model.earned + model.earned_pending for model in models.values())
        assert spent == earned


TestLedger = pytest.mark.timeout(1200)(LedgerMachine.TestCase)
TestLedger.settings = machine_settings(examples=200, steps=50)
