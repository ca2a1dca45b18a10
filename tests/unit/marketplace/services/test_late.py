"""Receipts that come when nobody waits for them any more."""

import asyncio
import os
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.errors import NodesFailed
from marketplace.domain.jobs import AcceptedJob
from marketplace.services import ledger
from tallystick.protocol.frames import Finished, Job, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import JobId
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
        assert "output_commitment, output_tokens, text_bytes differ" in answer.reason
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
