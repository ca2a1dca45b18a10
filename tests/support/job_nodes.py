"""What nodes do, right and wrong, to a market that a state machine drives."""

from typing import Any

from marketplace.services.suspension import set_nodes_suspended
from tallystick.protocol.eip712 import receipt_digest
from tallystick.protocol.frames import Finished, Offers, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address
from tallystick.protocol.receipts import Finish
from tests.support.job_model import ModelJob, Signed
from tests.support.job_world import JobWorld, async_call, pick
from tests.support.nodes import DOMAIN, EOS, ScriptedNode, _nowhere, an_offer, key_of

DECEITS: dict[str, dict[str, Any]] = {
    "count": {"output_tokens": 13},
    "hash": {"output_commitment": b"\x01" * 32},
    "price": {"output_price": 100_000},
    "free prompt": {"prompt_tokens": 77},
    "account": {"account": Address("0x" + "de" * 20)},
    "text": {"text_bytes": 9_999},
    "future": {"finished_at": 2**50},
    "signer": {},
}


class JobNodes(JobWorld):
    """`number` chooses among what there is; what finds nothing to do does nothing."""

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
        if job := self.pick_live(number):
            self.lie_about(job, number)

    def all_lie(self, number: int) -> None:
        """Have every node that gets a job lie about it, and bring the truth when it has failed."""
        if living := self.living():
            job = max(living, key=lambda one: one.most - len(one.ids))
            while job.live and not job.is_whole:
                self.stream_on(job, [ord("l")])
                self.lie_about(job, number)
            self.time_passes(11)
            for signed in [one for one in self.signed if one.job is job and one.is_true]:
                self.bring(signed)

    def lie_about(self, job: ModelJob, number: int) -> None:
        deceit = sorted(DECEITS)[number % len(DECEITS)]
        if (attempt := job.live) and attempt.work.ids:
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
        if signed := pick(owed or there, number):
            self.bring(signed)

    def bring(self, signed: Signed) -> None:
        if signed.job.live is signed.attempt or signed.attempt.node.address not in self.lines:
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
