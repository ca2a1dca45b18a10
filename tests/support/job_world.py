"""A market that a state machine drives, and what it sees there: it enters that into its model."""

from typing import Any

import msgspec

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import Forbidden, NoNode, NotAuthenticated, PaymentRequired
from marketplace.domain.jobs import JobRequest
from marketplace.services.audit_books import audit_books
from marketplace.services.running import RunningJob
from tallystick.protocol.eip712 import receipt_digest, taken_digest
from tallystick.protocol.frames import ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import recover
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import SignedReceipt
from tests.support.by_hand import HandClock
from tests.support.hand_machine import HandMachine
from tests.support.hand_market import HandMarket, park
from tests.support.hubs import COORDINATOR
from tests.support.job_model import ModelBooks, ModelJob, Signed, Try, charge_of, fee_of
from tests.support.machines import place
from tests.support.nodes import DOMAIN, ScriptedNode, an_offer

NOW = 1_700_000_000_000
TREASURY = Address("0x" + "7e" * 20)
WALLETS = [Address("0x" + f"{number:040x}") for number in (0xC1, 0xC2, 0xC3)]
ACCOUNTS = [*WALLETS, "carol"]
GOODWILL = NanoUsd(10**15)
RECEIPTS = "SELECT id, body, payer_id, operator_id, charge, fee, taken_epoch, taken_signature FROM receipt"


class JobWorld(HandMachine):
    """A market, three nodes, and the model beside them."""

    def __init__(self) -> None:
        super().__init__()
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

    def plug_in(self, node: ScriptedNode) -> None:
        # A node that comes back is another one to a job that it left.
        self.loop.pass_time(1)
        self.lines[node.address] = self.loop.do(async_call(self.market.connect, node))
        self.settle()

    def teardown(self) -> None:
        books = self.market.books
        try:
            assert self.loop.do(books.read(audit_books)).findings == ()
        finally:
            self.put_away(books)

    def living(self) -> list[ModelJob]:
        return [job for job in self.model.jobs if job.live]

    def pick_live(self, number: int) -> ModelJob | None:
        return pick(self.living()[-2:], number)

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


def pick(some: list[Any], number: int) -> Any:
    """Return one of them, None if there is none."""
    return some[number % len(some)] if some else None


async def async_call(call: Any, *arguments: Any) -> Any:
    """Call it on the loop."""
    return call(*arguments)
