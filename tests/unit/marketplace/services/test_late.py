"""Receipts that come when nobody waits for them any more."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.orm import Session

from marketplace.domain.errors import NodesFailed, Unavailable
from marketplace.domain.jobs import AcceptedJob
from marketplace.services import late, ledger
from marketplace.services.till import Till
from tallystick.protocol.frames import Finished, Job, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import JobId, ReceiptId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.hubs import eventually
from tests.support.markets import Stand, a_market, a_request, answer_of
from tests.support.nodes import EOS, MODEL_ID, ScriptedNode, Work, key_of


async def a_lost_attempt(stand: Stand, node: ScriptedNode, *, sent: int = 2) -> Finished:
    """Run a job whose only node vanishes after `sent` tokens; return the receipt that it kept."""
    kept: list[Finished] = []

    async def vanishes(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:sent])
        await asyncio.sleep(0.02)
        kept.append(Finished(receipt=work.a_receipt(Finish.HANDED_OVER)))
        connection.vanish()

    node.script = vanishes
    async with stand.joined(node) as connection:
        running = await stand.market.submit(a_request())
        with pytest.raises(NodesFailed):
            await answer_of(running)
    return kept[0]


async def answer_to(stand: Stand, node: ScriptedNode, finished: Finished) -> ReceiptTaken | ReceiptRefused:
    """Reconnect, send the receipt, return what the coordinator says."""
    node.received.clear()
    async with stand.joined(node) as connection:
        await connection.send([finished])
        answer = await node.until(lambda frame: isinstance(frame, ReceiptTaken | ReceiptRefused))
        assert isinstance(answer, ReceiptTaken | ReceiptRefused)
        return answer


async def test_a_receipt_that_comes_after_the_job_failed_is_paid_by_the_treasury_once(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        node = ScriptedNode(1)
        finished = await a_lost_attempt(stand, node)
        answers = [await answer_to(stand, node, finished) for _ in range(2)]
        assert isinstance(answers[0], ReceiptTaken)
        assert answers[0] == answers[1]
        (receipt,) = await stand.receipts()
        assert (receipt.payer_id, receipt.charge) == ("treasury", 7 * 300)
        assert (await stand.account()).spent == 0
        assert (await stand.treasury()).spent == 7 * 300
        assert await stand.earned(node) == 7 * 300 - 105


async def test_a_late_receipt_for_more_than_was_streamed_is_refused(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        node = ScriptedNode(1)
        kept = await a_lost_attempt(stand, node)
        (work,) = node.works.values()
        work.ids.append(108)
        work.text += "l"
        answer = await answer_to(stand, node, Finished(receipt=work.a_receipt(Finish.HANDED_OVER)))
        assert isinstance(answer, ReceiptRefused)
        assert "output_tokens, text_bytes differ" in answer.reason
        assert isinstance(await answer_to(stand, node, kept), ReceiptTaken)


async def test_a_late_receipt_of_an_answer_that_others_completed_is_refused(tmp_path: Path) -> None:
    async def vanishes(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await asyncio.sleep(0.02)
        kept.append(Finished(receipt=work.a_receipt(Finish.HANDED_OVER)))
        connection.vanish()

    kept: list[Finished] = []
    lost = ScriptedNode(1, vanishes)
    async with a_market(tmp_path) as stand, stand.joined(lost) as connection:
        running = await stand.market.submit(a_request())
        async with stand.joined(ScriptedNode(2)):
            await answer_of(running)
        answer = await answer_to(stand, lost, kept[0])
        assert isinstance(answer, ReceiptRefused)
        assert "completed without" in answer.reason
        assert len(await stand.receipts()) == 1


async def test_a_part_that_was_handed_over_may_be_resent_while_the_job_runs(tmp_path: Path) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        sent.append(await work.finish(Finish.HANDED_OVER))

    async def waits(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[2:])
        await may_end.wait()
        await work.tokens([EOS])
        await work.finish(Finish.EOS)

    sent: list[Finished] = []
    may_end = asyncio.Event()
    first = ScriptedNode(1, hands_over)
    async with a_market(tmp_path) as stand, stand.joined(first) as connection:
        running = await stand.market.submit(a_request())
        second = ScriptedNode(2, waits)
        async with stand.joined(second):
            await second.until(lambda frame: isinstance(frame, Job))
            await connection.send([sent[0]])
            await asyncio.sleep(0.05)
            assert not any(isinstance(one, ReceiptTaken | ReceiptRefused) for one in first.received)
            may_end.set()
            await answer_of(running)
            await eventually(lambda: sum(isinstance(one, ReceiptTaken) for one in first.received) == 2)
            assert len(await stand.receipts()) == 2


async def test_a_receipt_for_an_unknown_job_is_refused(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        node = ScriptedNode(1)
        work = Work(a_foreign_job(), node.key, node.send, ids=[1], text="a")
        answer = await answer_to(stand, node, Finished(receipt=work.a_receipt(Finish.LENGTH)))
        assert isinstance(answer, ReceiptRefused)
        assert "no job" in answer.reason


async def test_another_node_cannot_bring_a_receipt(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        finished = await a_lost_attempt(stand, ScriptedNode(1))
        answer = await answer_to(stand, ScriptedNode(2), finished)
        assert isinstance(answer, ReceiptRefused)
        assert "another node" in answer.reason


async def test_after_a_crash_a_receipt_of_an_expired_job_is_paid_within_its_hold(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand:
        # What a crash leaves behind: the job is open in the books, and is closed when its hold expires.
        accepted, kept = await an_orphan(stand, node)
        async with stand.joined(node) as connection:
            node.received.clear()
            await connection.send([kept])
            await asyncio.sleep(0.1)
            assert not any(isinstance(one, ReceiptTaken | ReceiptRefused) for one in node.received)
        await stand.database.write(lambda session: ledger.expire_holds(session, 2**60))
        forged = Finished(receipt=accepted.a_receipt(Finish.EOS, signer=key_of(3)))
        assert isinstance(await answer_to(stand, node, forged), ReceiptRefused)
        dearer = Finished(receipt=accepted.a_receipt(Finish.EOS, output_price=9999))
        assert isinstance(await answer_to(stand, node, dearer), ReceiptRefused)
        longer = Finished(receipt=accepted.a_receipt(Finish.EOS, output_tokens=9999))
        assert isinstance(await answer_to(stand, node, longer), ReceiptRefused)
        assert isinstance(await answer_to(stand, node, kept), ReceiptTaken)
        (receipt,) = await stand.receipts()
        assert receipt.payer_id == "treasury"


PART = NanoUsd(7 * 300)
"""What a part of two tokens costs, with the prompt."""


async def waits(work: Work) -> None:
    """Keep the job running."""
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def a_job_that_goes_on(
    stand: Stand, lost: ScriptedNode
) -> AsyncIterator[tuple[Finished, Callable[[], Awaitable[None]]]]:
    """Run a job whose node vanishes after a part and is followed by one that takes its time.

    Give the part's receipt, and what makes the job fail.
    """
    kept: list[Finished] = []
    may_end = asyncio.Event()

    async def vanishes(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await asyncio.sleep(0.02)
        kept.append(Finished(receipt=work.a_receipt(Finish.HANDED_OVER)))
        connection.vanish()

    async def fails_in_the_end(work: Work) -> None:
        await may_end.wait()
        await work.fail("engine")

    async def fail() -> None:
        may_end.set()
        with pytest.raises(NodesFailed):
            await answer_of(running)

    lost.script, second = vanishes, ScriptedNode(2, fails_in_the_end)
    async with stand.joined(lost) as connection:
        running = await stand.market.submit(a_request())
        async with stand.joined(second):
            await second.until(lambda frame: isinstance(frame, Job))
            lost.script = waits
            yield kept[0], fail


def answers(node: ScriptedNode) -> list[ReceiptTaken | ReceiptRefused]:
    """Return what the node was told about its receipts."""
    return [one for one in node.received if isinstance(one, ReceiptTaken | ReceiptRefused)]


async def test_a_receipt_brought_at_every_reconnection_while_its_job_runs_is_judged_once(
    tmp_path: Path,
) -> None:
    lost = ScriptedNode(1)
    async with a_market(tmp_path, goodwill=PART) as stand:
        async with a_job_that_goes_on(stand, lost) as (kept, fail):
            for _ in range(4):
                async with stand.joined(lost) as again:
                    await again.send([kept])
                    await asyncio.sleep(0.05)
            async with stand.joined(lost):
                await fail()
                await eventually(lambda: bool(answers(lost)))
                await asyncio.sleep(0.1)
        assert [type(one) for one in answers(lost)] == [ReceiptTaken]
        assert [receipt.charge for receipt in await stand.receipts()] == [PART]


async def test_copies_of_a_receipt_that_come_at_once_are_judged_once(tmp_path: Path) -> None:
    async with a_market(tmp_path, goodwill=PART) as stand:
        node = ScriptedNode(1)
        finished = await a_lost_attempt(stand, node)
        told = await asyncio.gather(
            *(stand.late.answer(node.address, node.operator, finished) for _ in range(3))
        )
        assert isinstance(told[0], ReceiptTaken)
        assert told == [told[0]] * 3


async def test_a_node_that_leaves_while_it_is_paid_is_paid(tmp_path: Path) -> None:
    async with a_market(tmp_path, goodwill=PART) as stand:
        node = ScriptedNode(1)
        finished = await a_lost_attempt(stand, node)
        answering = asyncio.create_task(stand.late.answer(node.address, node.operator, finished))
        await asyncio.sleep(0)
        answering.cancel()
        assert isinstance(await answer_to(stand, node, finished), ReceiptTaken)
        assert len(await stand.receipts()) == 1


async def test_a_late_receipt_that_the_books_do_not_take_costs_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unwilling(work: Any) -> Any:
        raise Unavailable("The disk is busy.")

    async with a_market(tmp_path, goodwill=PART) as stand:
        node = ScriptedNode(1)
        finished = await a_lost_attempt(stand, node)
        with monkeypatch.context() as while_busy:
            while_busy.setattr(stand.database, "write", unwilling)
            with pytest.raises(Unavailable):
                await stand.late.answer(node.address, node.operator, finished)
        assert isinstance(await answer_to(stand, node, finished), ReceiptTaken)


async def test_a_receipt_that_was_booked_meanwhile_is_not_refused_and_costs_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Till.find_taken
    looked: list[ReceiptId] = []

    async def look_too_early(till: Till, receipt_id: ReceiptId) -> ReceiptTaken | None:
        looked.append(receipt_id)
        return None if len(looked) == 1 else await look(till, receipt_id)

    node = ScriptedNode(1)
    async with a_market(tmp_path, goodwill=NanoUsd(2 * 11 * 300)) as stand:
        _, kept = await an_orphan(stand, node)
        await stand.database.write(lambda session: ledger.expire_holds(session, 2**60))
        first = await answer_to(stand, node, kept)
        assert isinstance(first, ReceiptTaken)
        monkeypatch.setattr(Till, "find_taken", look_too_early)
        assert await answer_to(stand, node, kept) == first
        assert len(looked) == 2
        assert stand.late.goodwill.spend(node.operator, NanoUsd(11 * 300))


async def test_what_a_node_has_not_signed_does_not_wait_for_a_jobs_end(tmp_path: Path) -> None:
    bystander = ScriptedNode(3, models=())
    async with a_market(tmp_path) as stand, a_job_that_goes_on(stand, ScriptedNode(1)) as (kept, fail):
        anothers = await answer_to(stand, bystander, kept)
        assert isinstance(anothers, ReceiptRefused)
        assert "another node" in anothers.reason
        receipt = msgspec.structs.replace(kept.receipt.receipt, node=bystander.address)
        unsigned = Finished(receipt=msgspec.structs.replace(kept.receipt, receipt=receipt))
        refused = await answer_to(stand, bystander, unsigned)
        assert isinstance(refused, ReceiptRefused)
        assert "not by the node" in refused.reason
        await fail()


async def test_a_node_that_brings_very_many_receipts_takes_nobody_elses_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late, "MOST_DEFERRED", 4)
    lost, bystander = ScriptedNode(1), ScriptedNode(3, models=())
    async with (
        a_market(tmp_path) as stand,
        a_job_that_goes_on(stand, lost) as (kept, fail),
        stand.joined(bystander) as line,
        stand.joined(lost) as again,
    ):
        (work,) = lost.works.values()
        theirs = Work(work.job, bystander.key, bystander.send, ids=[1], text="a")
        for number in range(8):
            await line.send([Finished(receipt=theirs.a_receipt(Finish.EOS, attempt=number))])
        await asyncio.sleep(0.1)
        assert answers(bystander) == []
        await again.send([kept])
        await asyncio.sleep(0.05)
        await fail()
        await lost.until(lambda one: isinstance(one, ReceiptTaken))
        await eventually(lambda: len(answers(bystander)) == 4)
        assert all(isinstance(one, ReceiptRefused) for one in answers(bystander))


async def test_an_attempt_is_forgotten_once_it_is_paid(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        node = ScriptedNode(1)
        finished = await a_lost_attempt(stand, node)
        first = await answer_to(stand, node, finished)
        assert isinstance(first, ReceiptTaken)
        (work,) = node.works.values()
        other = await answer_to(stand, node, Finished(receipt=work.a_receipt(Finish.HANDED_OVER)))
        assert isinstance(other, ReceiptRefused)
        assert "nothing is known" in other.reason
        assert await answer_to(stand, node, finished) == first


async def an_orphan(stand: Stand, node: ScriptedNode) -> tuple[Work, Finished]:
    """Leave an accepted job in the books that no process drives."""
    job = a_foreign_job()
    request = a_request()
    price, hold = NanoUsd(300), NanoUsd(69 * 300)
    accepted = AcceptedJob(JobId(job.job_id), request, job.job_seed, job.salt, price, price, 500, hold, 1)

    def work(session: Session) -> None:
        ledger.open_hold(session, accepted, expires_at=10, terms=stand.desk.till.terms)

    await stand.database.write(work)
    orphan = Work(job, node.key, node.send, ids=[*b"hello", EOS], text="hello")
    return orphan, Finished(receipt=orphan.a_receipt(Finish.EOS))


def a_foreign_job() -> Job:
    """Return a job that this coordinator's process knows nothing of."""
    return Job(
        job_id=os.urandom(32),
        attempt=0,
        model_id=MODEL_ID,
        account=a_request().payer,
        prompt_ids=tuple(b"hello"),
        prompt_text="hello",
        salt=bytes(32),
        parameters=Parameters(max_tokens=64),
        job_seed=bytes(32),
        input_price=300,
        output_price=300,
        fee_bps=500,
    )
