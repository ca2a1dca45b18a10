"""A node has a job while the disk makes its hold durable; its consumer has nothing before, or never."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.domain.errors import Unavailable
from marketplace.storage.quick import QuickWriter
from tallystick.protocol.frames import Finished, Job, ReceiptRefused
from tallystick.protocol.receipts import Finish
from tests.support.hubs import eventually
from tests.support.markets import Stand, a_market, a_request, answer_of
from tests.support.nodes import MODEL_ID, ScriptedNode, Work


class Disk:
    """Keeps the commits of short writes waiting until it is let go, or fails."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.is_full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk, commit = Disk(), QuickWriter.commit

    def wait(writer: QuickWriter) -> None:
        assert disk.let_go.wait(30)
        if disk.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        commit(writer)

    monkeypatch.setattr(QuickWriter, "commit", wait)
    yield disk
    disk.let_go.set()


async def test_an_answer_is_made_but_not_given_before_the_hold_is_durable(tmp_path: Path, disk: Disk) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        submitting = asyncio.create_task(stand.market.submit(a_request()))
        await eventually(lambda: stand.history.of(node.address).done == 1)
        assert not submitting.done()
        assert await stand.jobs() == []
        disk.let_go.set()
        text, _, completed = await answer_of(await submitting)
        assert (text, completed.charge) == ("hello", 3300)
        assert await stand.earned(node) == 3300 - 165


async def test_a_node_is_stopped_when_the_hold_of_its_job_is_lost(tmp_path: Path, disk: Disk) -> None:
    async def goes_on(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    node = ScriptedNode(1, goes_on)
    async with a_market(tmp_path) as stand, stand.joined(node):
        submitting = asyncio.create_task(stand.market.submit(a_request()))
        await node.until(lambda frame: isinstance(frame, Job))
        disk.is_full = True
        disk.let_go.set()
        with pytest.raises(Unavailable, match="full"):
            await submitting
        await node.until(lambda frame: isinstance(frame, ReceiptRefused))
        await stand.all_ended()
        await nothing_happened(stand, node)


async def test_an_answer_whose_hold_is_lost_is_neither_given_nor_charged(tmp_path: Path, disk: Disk) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand:
        async with stand.joined(node) as connection:
            submitting = asyncio.create_task(stand.market.submit(a_request()))
            await eventually(lambda: stand.history.of(node.address).done == 1)
            disk.is_full = True
            disk.let_go.set()
            with pytest.raises(Unavailable, match="full"):
                await submitting
            await stand.all_ended()
            (work,) = node.works.values()
            # As a node does that was not told what became of its receipt.
            await connection.send([Finished(receipt=work.a_receipt(Finish.EOS))])
            refused = await node.until(lambda frame: isinstance(frame, ReceiptRefused))
            assert isinstance(refused, ReceiptRefused)
            assert "no job" in refused.reason
        await nothing_happened(stand, node)
        disk.is_full = False
        async with stand.joined(node):
            assert (await stand.ask())[2].charge == 3300


async def nothing_happened(stand: Stand, node: ScriptedNode) -> None:
    """Check that neither side's money has moved, and that no slot is taken."""
    account = await stand.account()
    assert (account.held, account.spent) == (0, 0)
    assert (await stand.jobs(), await stand.receipts()) == ([], [])
    assert await stand.earned(node) == 0
    assert (await stand.treasury()).spent == 0
    assert stand.slots.load(node.address, MODEL_ID) == 0
