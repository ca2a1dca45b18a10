"""Jobs against a model of them: whatever nodes, clients, time and crashes do, in whatever order.

Laws, after every step:
    an account has what it deposited less the charges of its answers; it holds what its living jobs hold
    a job is charged once, what true receipts of what was streamed add up to, and at most its hold
    a job that failed, or that a crash ended, costs its consumer nothing
    every receipt in the books is signed by its node and taken by the coordinator, also if it crashed since
    operators have earned what their receipts say less the fee; the treasury has the fees, and pays the rest
"""

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.errors import Forbidden, NoNode, NotAuthenticated, PaymentRequired
from marketplace.domain.jobs import JobRequest
from marketplace.services import ledger
from marketplace.services.audit_books import audit_books
from marketplace.services.keys import KeyTerms
from marketplace.services.maturity import expire_holds, mature_due
from marketplace.services.running import RunningJob
from marketplace.services.suspension import set_account_status, set_nodes_suspended
from marketplace.storage.queries import accounts
from tallystick.protocol.eip712 import receipt_digest, taken_digest
from tallystick.protocol.frames import Finished, Offers, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import recover
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish, SignedReceipt
from tests.support.by_hand import HandClock, HandLoop, dies_at
from tests.support.hand_market import HandMarket, park
from tests.support.hubs import COORDINATOR
from tests.support.job_model import ModelBooks, ModelJob, Signed, Try, charge_of, fee_of
from tests.support.machines import machine_settings, place, quietly
from tests.support.markets import a_request
from tests.support.nodes import DOMAIN, EOS, ScriptedNode, _nowhere, an_offer, key_of

NOW = 1_700_000_000_000
TREASURY = Address("0x" + "7e" * 20)
WALLETS = [Address("0x" + f"{number:040x}") for number in (0xC1, 0xC2, 0xC3)]
ACCOUNTS = [*WALLETS, "carol"]
GOODWILL = NanoUsd(10**15)
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
DECEITS: dict[str, dict[str, Any]] = {
    "count": {"output_tokens": 13},
    "hash": {"output_commitment": b"\x01" * 32},
    "price": {"output_price": 100_000},
    "free prompt": {"prompt_tokens": 77},
    "account": {"account": WALLETS[2]},
    "text": {"text_bytes": 9_999},
    "future": {"finished_at": 2**50},
    "signer": {},
}
WORKING = [
    *["stream"] * 4,
    *["finish"] * 4,
    *["hand_over"] * 3,
    *["relay"] * 2,
    *["bring_a_receipt_again"] * 2,
    *["sign_and_vanish"] * 2,
    "lie",
    "refuse",
    "stream_out_of_order",
    "leave",
]
which = st.integers(0, 1_000)
CHEAP = (an_offer(input_price=100, output_price=100, slots=4),)
JOBS = "SELECT id, state, charge, hold, error FROM job"
RECEIPTS = "SELECT id, body, payer_id, operator_id, charge, fee, taken_epoch, taken_signature FROM receipt"
MONEY = "SELECT id, balance, held, spent, earned + earned_pending FROM account"


class JobMachine(RuleBasedStateMachine):
    """Drives a market and the model side by side; a rule that finds nothing to do does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = quietly()
        self.quiet.__enter__()
        place().renew()
        self.loop = HandLoop()
        self.clock = HandClock(self.loop, NOW)
        self.model = ModelBooks()
        self.nodes = [ScriptedNode(number, park, models=(an_offer(slots=number),)) for number in (1, 2, 3)]
        self.lines: dict[Address, Any] = {}
        self.barred: set[Address] = set()
        """Suspended nodes."""
        self.signed: list[Signed] = []
        self.asked: list[tuple[JobRequest, Any]] = []
        """Requests that wait for a free slot."""
        self.told: dict[Address, int] = {node.address: 0 for node in self.nodes}
        self.taken: dict[bytes, int] = {}
        """Receipts in the books, and what they charge the treasury."""
        self.earned: dict[str, int] = {}
        self.start()
        self.plug_all_in()

    def plug_all_in(self) -> None:
        for node in self.nodes:
            self.plug_in(node)

    def start(self) -> None:
        self.market = HandMarket(place(), self.clock, GOODWILL)
        self.loop.do(self.market.start(TREASURY))

    def write(self, work: Any) -> Any:
        return self.loop.do(self.market.books.write(work))

    def teardown(self) -> None:
        books = self.market.books
        try:
            assert self.loop.do(books.read(audit_books)).findings == ()
        finally:
            self.loop.end()
            books.die()
            self.loop.close()
            self.quiet.__exit__(None, None, None)

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

    def living(self) -> list[ModelJob]:
        return [job for job in self.model.jobs if job.live]

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

    def stream(self, number: int) -> None:
        if job := self.pick_live(number):
            count = 1 + number % 5
            self.stream_on(job, [ord("a") + count] * min(count, job.most - len(job.ids)))

    def stream_on(self, job: ModelJob, ids: list[int]) -> None:
        if ids and not job.is_whole and (attempt := job.live):
            self.loop.do(attempt.work.tokens(ids))
            job.ids += ids

    def finish(self, number: int) -> None:
        if job := self.pick_live(number):
            if len(job.ids) < job.most:
                self.stream_on(job, [EOS])
            finish = Finish.EOS if job.ids[-1] == EOS else Finish.LENGTH
            self.send_true(job, finish, is_final=bool(job.live and job.live.work.ids))

    def hand_over(self, number: int) -> None:
        if (job := self.pick_live(number)) and not job.is_whole:
            finish = Finish.CANCELLED if job.has_left else Finish.HANDED_OVER
            self.send_true(job, finish, is_final=job.has_left)

    def relay(self, number: int) -> None:
        """Hand a job over, and have the next node finish it."""
        if (job := self.pick_live(number)) and not job.has_left:
            self.stream_on(job, [ord("r")])
            if not job.is_whole and job.live:
                self.send_true(job, Finish.HANDED_OVER, is_final=False)
                if job.live:
                    self.stream_on(job, [EOS])
                    self.send_true(job, Finish.EOS, is_final=True)

    def send_true(self, job: ModelJob, finish: Finish, *, is_final: bool) -> None:
        signed = self.sign(job, finish)
        attempt = signed.attempt
        attempt.has_ended = True
        if attempt.work.ids:
            job.parts.append(signed)
            job.is_final = is_final
        self.loop.do(attempt.work.send([signed.finished]))
        self.settle()
        if is_final:
            assert job.state == "done"

    def sign(self, job: ModelJob, finish: Finish, signer: Any = None, **changes: Any) -> Signed:
        attempt = job.tries[-1]
        now = self.clock.now_ms()
        nonce = len(self.signed).to_bytes(32, "big")
        fields = {"started_at": now, "finished_at": now, "nonce": nonce} | changes
        made = attempt.work.a_receipt(finish, signer, **fields)
        is_true = not changes and signer is None
        signed = Signed(attempt, job, Finished(receipt=made), receipt_digest(DOMAIN, made.receipt), is_true)
        self.signed.append(signed)
        return signed

    def lie(self, number: int) -> None:
        deceit = sorted(DECEITS)[number % len(DECEITS)]
        if (job := self.pick_live(number)) and (attempt := job.live) and attempt.work.ids:
            finish = Finish.EOS if job.ids[-1] == EOS else Finish.HANDED_OVER
            signer = key_of(99) if deceit == "signer" else None
            # It signs the truth too, for later: nothing that it says of this try counts any more.
            self.sign(job, finish)
            signed = self.sign(job, finish, signer, **DECEITS[deceit])
            attempt.has_ended = True
            self.loop.do(attempt.work.send([signed.finished]))
            self.settle()

    def refuse(self, number: int) -> None:
        code = ("busy", "engine", "draining")[number % 3]
        if (job := self.pick_live(number)) and (attempt := job.live):
            attempt.has_ended = True
            self.loop.do(attempt.work.fail(code))
            self.settle()

    def stream_out_of_order(self, number: int) -> None:
        if (job := self.pick_live(number)) and (attempt := job.live):
            attempt.has_ended = True
            frame = attempt.work.a_tokens_frame([], "x", position=len(job.ids) + 1 + number % 3)
            self.loop.do(attempt.work.send([frame]))
            self.settle()

    def sign_and_vanish(self, number: int) -> None:
        if (job := self.pick_live(number)) and (attempt := job.live) and attempt.work.ids:
            is_eos = job.ids[-1] == EOS
            self.sign(job, Finish.EOS if is_eos else Finish.CANCELLED)
            self.unplug(attempt.node)

    def unplug_or_plug_in(self, number: int) -> None:
        node = self.nodes[number % 3]
        if node.address in self.lines:
            self.unplug(node)
        else:
            self.plug_in(node)

    def unplug(self, node: ScriptedNode) -> None:
        self.loop.do(async_call(self.lines.pop(node.address).leave))
        node.send = _nowhere
        for job in self.model.jobs:
            if (attempt := job.live) and attempt.node is node:
                attempt.has_ended = attempt.is_lost = True
        self.settle()

    def all_vanish(self, number: int) -> None:
        """Have every node sign for what it made and go, so that jobs fail whose receipts come later."""
        for job in self.living():
            self.hurry(job)
        for node in self.nodes:
            if node.address in self.lines:
                self.unplug(node)
        self.time_passes(11)
        self.plug_all_in()
        self.bring_a_receipt_again(number)

    def hurry(self, job: ModelJob) -> None:
        self.stream_on(job, [ord("h")])
        if job.live and job.live.work.ids:
            self.sign(job, Finish.EOS if job.ids[-1] == EOS else Finish.CANCELLED)

    def plug_in(self, node: ScriptedNode) -> None:
        # A node that comes back is another one to a job that it left.
        self.loop.pass_time(1)
        self.lines[node.address] = self.loop.do(async_call(self.market.connect, node))
        self.settle()

    def ask_another_price(self, number: int) -> None:
        self.set_price(self.nodes[number % 3], 1 + number % 499, slots=number % 5)

    def set_price(self, node: ScriptedNode, price: int, slots: int) -> None:
        node.models = (an_offer(input_price=price, output_price=price, slots=slots),)
        if node.address in self.lines:
            self.loop.do(node.send([Offers(models=node.models)]))
            self.settle()

    def suspend_node_or_restore(self, number: int, node: ScriptedNode | None = None) -> None:
        address = (node or self.nodes[number % 3]).address
        self.write(lambda session: set_nodes_suspended(session, address, address not in self.barred))
        self.barred ^= {address}
        self.loop.do(self.market.nodes.see_suspensions())
        self.settle()

    def bring_a_receipt_again(self, number: int) -> None:
        there = [one for one in self.signed if one.attempt.node.address in self.lines]
        owed = [one for one in there if one.attempt.is_lost and one.id not in self.taken]
        signed = pick(owed or there, number)
        if signed is None or signed.job.live is signed.attempt:
            return
        node, job = signed.attempt.node, signed.job
        was_taken, state, before = signed.id in self.taken, job.state, len(node.received)
        self.loop.do(node.send([signed.finished]))
        is_owed = state == "failed" and signed.is_true and signed.attempt.is_lost and self.has_room(signed)
        self.settle()
        answers = [one for one in node.received[before:] if isinstance(one, ReceiptTaken | ReceiptRefused)]
        if was_taken or is_owed:
            assert [type(one) for one in answers] == [ReceiptTaken]
        elif state in ("done", "failed"):
            # Others completed it, or it was given away; or this node lied, refused or has been paid.
            assert [type(one) for one in answers] == [ReceiptRefused]

    def has_room(self, signed: Signed) -> bool:
        others = [one for one in self.signed if one.job is signed.job and one.id in self.taken]
        room = signed.job.running.accepted.hold - sum(one.charge for one in others)
        return signed.charge <= room and all(one.attempt is not signed.attempt for one in others)

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

    # What has happened

    def settle(self) -> None:
        """Let everything happen that can at this time, and enter it into the model."""
        self.loop.settle()
        for entry in [one for one in self.asked if one[1].done()]:
            self.asked.remove(entry)
            self.see_answer(*entry)
        self.loop.settle()
        for job in [one for one in self.model.jobs if one.state == "living"]:
            self.see_tries(job)
            self.see_end(job)
        self.see_receipts()

    def see_answer(self, request: JobRequest, task: Any) -> None:
        try:
            running: RunningJob = task.result()
        except NoNode:
            return
        except (PaymentRequired, Forbidden, NotAuthenticated):
            dearest = max(node.models[0].output_price for node in self.nodes)
            tokens = len(request.prompt_ids) + request.parameters.max_tokens
            assert not self.model.fits(request.account_id, request.key_id, tokens * dearest)
            return
        accepted = running.accepted
        given = len(request.prompt_ids) * accepted.input_price
        assert accepted.hold == given + request.parameters.max_tokens * accepted.output_price
        assert self.model.fits(request.account_id, request.key_id, accepted.hold)
        job = ModelJob(running)
        self.model.jobs.append(job)
        self.loop.create_task(job.follow())

    def see_tries(self, job: ModelJob) -> None:
        live = job.live
        if live and live.work.cancelled.is_set() and not job.has_left:
            live.has_ended = live.is_lost = True
        accepted = job.running.accepted
        while found := self.work_at(accepted.id, len(job.tries)):
            node, work = found
            assert job.live is None or job.has_left
            assert node.address not in self.barred
            assert work.job.resume_ids == tuple(job.ids)
            assert work.job.bill_prompt == (not job.parts)
            assert work.job.input_price == accepted.input_price
            assert work.job.output_price == accepted.output_price
            gone = work.cancelled.is_set() and not job.has_left
            job.tries.append(Try(node, work, has_ended=gone, is_lost=gone))

    def work_at(self, job_id: bytes, attempt: int) -> Any:
        key = (job_id, attempt)
        return next(((node, node.works[key]) for node in self.nodes if key in node.works), None)

    def see_end(self, job: ModelJob) -> None:
        if not job.running.ended.is_set():
            assert not job.is_final
            return
        if job.error is not None:
            assert not job.is_final
            job.state = "failed"
        else:
            assert job.is_final or job.has_left or job.is_whole
            if not job.has_left:
                assert job.completed is not None
                assert (job.completed.charge, job.read) == (job.charge, job.ids)
            job.state = "done"
        for attempt in job.tries:
            attempt.is_lost = attempt.is_lost or not attempt.has_ended
            attempt.has_ended = True

    def see_receipts(self) -> None:
        """Check the receipts that are new in the books, and who was told of one."""
        by_id = {one.id: one for one in self.signed}
        for row in self.market.books.query(RECEIPTS):
            if row[0] not in self.taken:
                self.see_receipt(by_id[row[0]], row)
        for node in self.nodes:
            news = node.received[self.told[node.address] :]
            self.told[node.address] = len(node.received)
            for word in news:
                if isinstance(word, ReceiptTaken):
                    assert word.receipt_id in self.taken
                    digest = taken_digest(DOMAIN, word.receipt_id, word.epoch)
                    assert recover(digest, word.signature) == COORDINATOR.address
                elif isinstance(word, ReceiptRefused):
                    assert word.receipt_id not in self.taken

    def see_receipt(self, signed: Signed, row: Any) -> None:
        receipt_id, body, payer, operator, charge, fee, epoch, signature = row
        stored = msgspec.msgpack.decode(body, type=SignedReceipt)
        receipt, job = stored.receipt, signed.job
        assert receipt_digest(DOMAIN, receipt) == receipt_id
        assert recover(receipt_id, stored.signature) == receipt.node == signed.attempt.node.address
        assert recover(taken_digest(DOMAIN, receipt_id, epoch), signature) == COORDINATOR.address
        assert operator == signed.attempt.node.operator
        assert (charge, fee) == (charge_of(receipt), fee_of(receipt))
        assert signed.is_true or job.state == "orphaned"
        if payer == TREASURY_ID:
            assert job.state in ("failed", "orphaned")
        else:
            assert (payer, job.state) == (job.account_id, "done")
            assert signed in job.parts
        self.taken[receipt_id] = charge if payer == TREASURY_ID else 0
        self.earned[operator] = self.earned.get(operator, 0) + charge - fee
        self.earned[TREASURY_ID] = self.earned.get(TREASURY_ID, 0) + fee

    def pick_live(self, number: int) -> ModelJob | None:
        return pick(self.living()[-2:], number)

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


def pick(some: list[Any], number: int) -> Any:
    """Return one of them, None if there is none."""
    return some[number % len(some)] if some else None


async def async_call(call: Any, *arguments: Any) -> Any:
    """Call it on the loop."""
    return call(*arguments)


TestJobs = pytest.mark.timeout(1200)(JobMachine.TestCase)
TestJobs.settings = machine_settings(examples=200, steps=50)
