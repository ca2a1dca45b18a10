"""Jobs against a model of them: whatever nodes, clients, time and crashes do, in whatever order.

Laws, after every step:
    an account has what it deposited less the charges of its answers; it holds what its living jobs hold
    a job is charged once, what true receipts of what was streamed add up to, and at most its hold
    a job that failed, or that a crash ended, costs its consumer nothing
    every receipt in the books is signed by its node and taken by the coordinator, also if it crashed since
    operators have earned what their receipts say less the fee; the treasury has the fees, and pays the rest
"""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.services import ledger
from marketplace.services.keys import KeyTerms
from marketplace.services.maturity import expire_holds, mature_due
from marketplace.services.suspension import set_account_status
from marketplace.storage.queries import accounts
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tests.support.by_hand import dies_at
from tests.support.job_nodes import JobNodes
from tests.support.job_world import ACCOUNTS, NOW, TREASURY, WALLETS, pick
from tests.support.machines import machine_settings
from tests.support.markets import a_request
from tests.support.nodes import _nowhere, an_offer

POINTS = [
    "books.group_ran",
    "books.group_committed",
    "books.group_committed:2",
    "dispatch.hold_opened",
    "dispatch.before_capture",
    "dispatch.captured",
    "dispatch.told",
    "dispatch.before_release",
    "dispatch.released",
    "dispatch.late_taken",
    "maturity.some_matured",
    "maturity.holds_expired",
]
WORKING = [
    *["stream"] * 4,
    *["finish"] * 4,
    *["hand_over"] * 3,
    *["relay"] * 2,
    *["bring_a_receipt_again"] * 2,
    *["sign_and_vanish"] * 2,
    "lie",
    "all_lie",
    "refuse",
    "stream_out_of_order",
    "leave",
]
which = st.integers(0, 1_000)
CHEAP = (an_offer(input_price=100, output_price=100, slots=4),)
JOBS = "SELECT id, state, charge, hold, error FROM job"
MONEY = "SELECT id, balance, held, spent, earned + earned_pending FROM account"


class JobMachine(JobNodes):
    """Drives a market and the model side by side; a rule that finds nothing to do does nothing."""

    @initialize(amounts=st.lists(st.integers(20_000, 200_000), min_size=4, max_size=4))
    def bring_money(self, amounts: list[int]) -> None:
        def work(session: Any) -> None:
            ledger.credit_deposit(session, TREASURY, NanoUsd(10**9), "t", NOW)
            accounts.create(session, "carol", AccountKind.EMAIL, NOW, email="carol@example.com")
            for wallet in WALLETS:
                ledger.set_authorized(session, wallet, NanoUsd(2**60))

        self.write(work)
        for account_id, amount in zip(ACCOUNTS, amounts, strict=True):
            self.deposit(account_id, amount)

    # Consumers

    @rule(
        what=st.sampled_from(["deposit", "make_key", "revoke_key", "suspend_account_or_restore"]),
        account_id=st.sampled_from(ACCOUNTS),
        amount=st.integers(1, 50_000),
    )
    def at_the_counter(self, what: str, account_id: str, amount: int) -> None:
        getattr(self, what)(account_id, amount)

    def deposit(self, account_id: str, amount: int) -> None:
        now, number = self.clock.now_ms(), str(self.loop.passed_ms) + account_id
        if account_id == "carol":
            self.write(lambda session: ledger.grant_credit(session, "carol", NanoUsd(amount), "", now))
        else:
            address = Address(account_id)
            self.write(lambda session: ledger.credit_deposit(session, address, NanoUsd(amount), number, now))
        self.model.deposits[account_id] += amount

    def make_key(self, account_id: str, cap: int) -> None:
        key = self.loop.do(self.market.keys.create_key(account_id, KeyTerms(cap=NanoUsd(cap))))
        self.model.caps[key.view.id] = cap

    def revoke_key(self, _account_id: str, number: int) -> None:
        if key_id := pick(list(self.model.caps), number):
            self.loop.do(self.market.keys.revoke_key(self.owner_of(key_id), key_id))
            del self.model.caps[key_id]

    def owner_of(self, key_id: str) -> str:
        found = self.market.books.query(f"SELECT account_id FROM api_key WHERE id = '{key_id}'")
        return str(found[0][0])

    def suspend_account_or_restore(self, account_id: str, _amount: int) -> None:
        status = "active" if account_id in self.model.suspended else "suspended"
        now = self.clock.now_ms()
        self.write(lambda session: set_account_status(session, account_id, status, now))
        self.model.suspended ^= {account_id}

    @rule(
        account_id=st.sampled_from(ACCOUNTS),
        key=st.one_of(st.none(), which),
        prompt=st.integers(1, 5),
        most=st.integers(1, 12),
        times=st.integers(1, 2),
    )
    def ask(self, account_id: str, key: int | None, prompt: int, most: int, times: int) -> None:
        key_id = "" if key is None else pick(list(self.model.caps), key) or ""
        if key_id:
            account_id = self.owner_of(key_id)
        request = a_request(
            account_id=account_id,
            key_id=key_id,
            payer=TREASURY if account_id == "carol" else account_id,
            prompt_ids=tuple(b"p" * prompt),
            prompt_text="p" * prompt,
            parameters=Parameters(max_tokens=most),
        )
        market = self.market.market
        self.asked += [(request, self.loop.create_task(market.submit(request))) for _ in range(times)]
        self.settle()

    def leave(self, number: int) -> None:
        living = [job for job in self.model.jobs if job.state == "living" and not job.has_left]
        if job := pick(living, number):
            job.has_left = True
            self.loop.do(job.running.aclose())
            self.settle()

    # Nodes

    @rule(doings=st.lists(st.tuples(st.sampled_from(WORKING), which), min_size=1, max_size=4))
    def nodes_work(self, doings: list[tuple[str, int]]) -> None:
        for what, number in doings:
            if not self.living():
                self.be_busy(number)
            getattr(self, what)(number)
            self.settle()

    def be_busy(self, number: int) -> None:
        """Bring it about that a node has a job."""
        for node in self.nodes:
            if node.address in self.barred:
                self.suspend_node_or_restore(number, node)
            if node.address not in self.lines:
                self.plug_in(node)
            if node.models != CHEAP:
                self.set_price(node, 100, slots=4)
        account_id = ACCOUNTS[number % 4]
        if account_id in self.model.suspended:
            self.suspend_account_or_restore(account_id, 0)
        self.deposit(account_id, 10_000)
        self.ask(account_id, None, 2, 2 + number % 10, 1)

    @rule(
        what=st.sampled_from(
            ["unplug_or_plug_in", "ask_another_price", "suspend_node_or_restore", "all_vanish"]
        ),
        number=which,
    )
    def nodes_come_and_go(self, what: str, number: int) -> None:
        getattr(self, what)(number)

    # Time and ends

    @rule(seconds=st.sampled_from([1, 4, 6, 11, 16, 61, 100, 901]))
    def time_passes(self, seconds: int) -> None:
        self.loop.pass_time(seconds * 1000)
        self.settle()

    @rule()
    def mature_and_expire(self) -> None:
        self.loop.do(mature_due(self.market.books, self.clock))
        assert self.loop.do(expire_holds(self.market.books, self.clock)) == []

    @rule(
        point=st.sampled_from(POINTS),
        doings=st.lists(st.tuples(st.sampled_from([*WORKING, "ask_twice"]), which), min_size=1, max_size=4),
    )
    def dies_in_the_middle(self, point: str, doings: list[tuple[str, int]]) -> None:
        def doing() -> None:
            for what, number in doings:
                getattr(self, what)(number)
            self.mature_and_expire()

        if not self.living():
            self.be_busy(len(self.model.jobs))
        if dies_at(point, doing):
            self.die()

    def ask_twice(self, number: int) -> None:
        self.ask(ACCOUNTS[number % 4], None, 2, 1 + number % 9, 2)

    def die(self) -> None:
        self.market.books.die()
        self.loop.end()
        self.loop.broken.clear()
        self.lines.clear()
        self.asked.clear()
        for node in self.nodes:
            node.send = _nowhere
        self.start()
        states = {job_id: (state, error) for job_id, state, _, _, error in self.market.books.query(JOBS)}
        assert "accepted" not in {state for state, _ in states.values()}
        for job in self.model.jobs:
            for attempt in job.tries:
                attempt.has_ended, attempt.is_lost = True, False
            if job.state == "living":
                state, error = states[job.running.accepted.id]
                job.state = "orphaned" if error == "expired" else state
                assert job.state != "done" or job.is_final or job.has_left or job.is_whole
                if job.state != "done":
                    job.parts.clear()
        self.see_receipts()
        self.plug_all_in()

    # Laws

    @invariant()
    def the_market_has_met_no_bug(self) -> None:
        assert self.loop.broken == []

    @invariant()
    def every_account_is_as_the_model_says(self) -> None:
        for account_id, balance, held, spent, earned in self.market.books.query(MONEY):
            assert earned == self.earned.get(account_id, 0), account_id
            if account_id in ACCOUNTS:
                model = self.model
                expected = model.deposits[account_id] - model.spent(account_id)
                assert (balance, held, spent) == (expected, model.held(account_id), model.spent(account_id))
                assert balance >= held
            elif account_id == TREASURY_ID:
                assert (held, spent) == (0, sum(self.taken.values()))

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        known = {job.running.accepted.id: job for job in self.model.jobs}
        for job_id, state, charge, hold, _ in self.market.books.query(JOBS):
            job = known.get(job_id)
            if job is None:
                # A crash came before its consumer was told that it is accepted.
                assert (state, charge) == ("failed", 0)
                continue
            expected = {"living": "accepted", "orphaned": "failed"}.get(job.state, job.state)
            assert (state, charge) == (expected, job.charge if job.state == "done" else 0)
            assert charge <= hold == job.running.accepted.hold
            if job.state == "done":
                assert all(part.id in self.taken for part in job.parts)

    @invariant()
    def a_living_job_is_looked_after(self) -> None:
        living = [job for job in self.model.jobs if job.state == "living"]
        assert self.market.market.running == len(living)


TestJobs = pytest.mark.timeout(1200)(JobMachine.TestCase)
TestJobs.settings = machine_settings(examples=200, steps=50)
