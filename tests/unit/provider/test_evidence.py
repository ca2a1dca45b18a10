"""What the agent keeps: durable before it is sent, once per attempt, and there after a crash."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from provider.evidence import Evidence
from tallystick.protocol.eip712 import receipt_digest, sign_receipt
from tallystick.protocol.frames import ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.receipts import SignedReceipt
from tests.support.agents import a_cheque, a_taken
from tests.support.books import make_job, taken
from tests.support.nodes import DOMAIN, key_of, operator_of


def a_signed(number: int = 1, attempt: int = 0, **fields: object) -> tuple[ReceiptId, SignedReceipt]:
    """Return a receipt of node 1 with its id: 20 tokens in, 100 out, at 300."""
    receipt = taken(
        make_job("a", number=number), attempt=attempt, node=key_of(1).address, **fields
    ).signed.receipt
    return receipt_digest(DOMAIN, receipt), sign_receipt(DOMAIN, receipt, key_of(1))


@pytest.fixture
def evidence(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A store that is closed at the end."""
    store = Evidence(tmp_path / "evidence.sqlite")
    yield store
    store.close()


async def test_a_second_receipt_for_one_attempt_is_refused_and_others_of_the_batch_are_kept(
    evidence: Evidence,
) -> None:
    first, again = a_signed(1), a_signed(1, finish=2)
    other = a_signed(2)
    outcomes = await asyncio.gather(
        *(evidence.keep(*one, "") for one in (first, again, other)), return_exceptions=True
    )
    assert [type(one) for one in outcomes] == [type(None), sqlite3.IntegrityError, type(None)]
    assert [kept.id for kept in evidence.pending()] == [first[0], other[0]]
    assert evidence.knows(first[1].receipt.job_id, 0)
    assert not evidence.knows(first[1].receipt.job_id, 1)


async def test_the_earliest_promise_is_kept(evidence: Evidence) -> None:
    receipt_id, signed = a_signed()
    await evidence.keep(receipt_id, signed, "")
    for epoch in (7, 5, 9):
        await evidence.taken(a_taken(receipt_id, epoch))
    (kept,) = evidence.unsettled()
    assert kept.taken_epoch == 5


async def test_a_promise_that_comes_after_the_settlement_changes_nothing_about_it(evidence: Evidence) -> None:
    (receipt_id, signed), (refused_id, refused) = a_signed(1), a_signed(2)
    await evidence.keep(receipt_id, signed, "")
    await evidence.keep(refused_id, refused, "")
    await evidence.refused(ReceiptRefused(receipt_id=refused_id, reason="no token was delivered"))
    assert [kept.id for kept in evidence.unsettled()] == [receipt_id]
    await evidence.settled(receipt_id, 4)
    await evidence.taken(a_taken(receipt_id, 5))
    assert evidence.unsettled() == []
    assert evidence.recent(2)[1].taken_epoch == 5


async def test_a_refusal_does_not_undo_a_promise(evidence: Evidence) -> None:
    receipt_id, signed = a_signed()
    await evidence.keep(receipt_id, signed, "")
    await evidence.taken(a_taken(receipt_id))
    await evidence.refused(ReceiptRefused(receipt_id=receipt_id, reason="second thoughts"))
    assert evidence.recent(1)[0].state == "taken"


async def test_a_receipt_that_was_refused_can_be_taken_after_all(evidence: Evidence) -> None:
    receipt_id, signed = a_signed()
    await evidence.keep(receipt_id, signed, "")
    await evidence.refused(ReceiptRefused(receipt_id=receipt_id, reason="busy"))
    frame: ReceiptTaken = a_taken(receipt_id)
    await evidence.taken(frame)
    assert evidence.recent(1)[0].state == "taken"


async def test_totals_epochs_and_cheques_add_up(evidence: Evidence) -> None:
    operator = operator_of(1)
    for number in (1, 2, 3):
        receipt_id, signed = a_signed(number)
        await evidence.keep(receipt_id, signed, "END")
        if number < 3:
            await evidence.taken(a_taken(receipt_id))
        if number == 1:
            await evidence.settled(receipt_id, 6)
    for earned, epoch in ((50, 5), (90, 7), (90, 6)):
        await evidence.acknowledged(a_cheque(operator, earned, epoch))
    earning = 120 * 300 - 120 * 300 // 20
    assert evidence.totals() == {"taken": (2, 2 * earning), "pending": (1, earning)}
    assert evidence.by_epoch() == [(6, 1, earning)]
    assert [(one.earned, one.epoch) for one in evidence.cheques(operator)] == [(90, 6), (90, 7), (50, 5)]
    assert evidence.pending()[0].stop == "END"


async def test_writes_that_wait_when_it_closes_are_kept_and_told(tmp_path: Path) -> None:
    store = Evidence(tmp_path / "evidence.sqlite")
    early = asyncio.create_task(store.keep(*a_signed(1), ""))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the first is being written; the others wait for it
    late = [asyncio.create_task(store.keep(*a_signed(number), "")) for number in (2, 3)]
    again = asyncio.create_task(store.keep(*a_signed(2, finish=2), ""))
    await asyncio.sleep(0)
    store.close()
    await asyncio.gather(early, *late)
    with pytest.raises(sqlite3.IntegrityError):
        await again
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await store.keep(*a_signed(4), "")
    store = Evidence(tmp_path / "evidence.sqlite")
    assert store.pending_count() == 3
    store.close()


CRASH = """
import asyncio, os, sys
from pathlib import Path
from tests.support.agents import a_config, a_job, an_agent
from provider.jobs import RunningJob
from tallystick.protocol.frames import Finished

async def main(home):
    agent = an_agent(a_config(), home)
    def send(frame):
        if isinstance(frame, Finished):
            os.kill(os.getpid(), 9)  # the receipt was about to leave
    (model,) = agent.models.values()
    await RunningJob(a_job(agent), model.engine, agent.jobs._bench, send).run()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_node_killed_while_it_sends_a_receipt_has_it_afterwards(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    store = Evidence(tmp_path / "evidence.sqlite")
    try:
        (kept,) = store.pending()
        assert kept.signed.receipt.output_tokens == 6
        assert store.knows((1).to_bytes(32, "big"), 0)
    finally:
        store.close()
