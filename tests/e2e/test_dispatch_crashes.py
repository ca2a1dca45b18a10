"""The coordinator is killed between any two durable steps of a job; its books and its node come out whole."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from marketplace.services import ledger
from marketplace.services.maturity import release_orphans
from tallystick.protocol.frames import Finished, ReceiptRefused, ReceiptTaken
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import SignedReceipt
from tests.support.markets import DEPOSIT, Stand, a_market
from tests.support.nodes import ScriptedNode

CHARGE = 11 * 300


async def killed_at(failpoint: str, folder: Path) -> None:
    """Run one job in a process that dies at `failpoint`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.one_job",
        str(folder),
        env=os.environ | {"TALLYSTICK_FAILPOINT": failpoint, "PYTHONPATH": os.getcwd()},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 60) == -9
    assert not (folder / "answered").exists()


async def bring_receipt(stand: Stand, folder: Path) -> ReceiptTaken | ReceiptRefused:
    """Have the node bring what it kept, as it does after every reconnect; return the answer."""
    signed = msgspec.msgpack.decode((folder / "receipt.msgpack").read_bytes(), type=SignedReceipt)
    node = ScriptedNode(1)
    async with stand.joined(node) as connection:
        await connection.send([Finished(receipt=signed)])
        answer = await node.until(lambda frame: isinstance(frame, ReceiptTaken | ReceiptRefused))
    assert isinstance(answer, ReceiptTaken | ReceiptRefused)
    return answer


async def expire(stand: Stand) -> int:
    return len(await stand.database.write(lambda session: ledger.expire_holds(session, 2**60)))


async def test_killed_after_the_hold_nothing_is_charged_and_the_hold_comes_back(tmp_path: Path) -> None:
    await killed_at("dispatch.hold_opened", tmp_path)
    async with a_market(tmp_path, deposit=NanoUsd(0)) as stand:
        assert (await stand.account()).held == 69 * 300
        assert await expire(stand) == 1
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT, 0, 0)
        assert await stand.receipts() == []


async def test_killed_before_the_capture_the_treasury_pays_the_node_once(tmp_path: Path) -> None:
    await killed_at("dispatch.before_capture", tmp_path)
    async with a_market(tmp_path, deposit=NanoUsd(0)) as stand:
        assert await expire(stand) == 1
        for _ in range(2):
            assert isinstance(await bring_receipt(stand, tmp_path), ReceiptTaken)
        (receipt,) = await stand.receipts()
        assert (receipt.payer_id, receipt.charge) == ("treasury", CHARGE)
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT, 0, 0)


async def test_killed_after_the_capture_the_charge_stands_once(tmp_path: Path) -> None:
    await killed_at("dispatch.captured", tmp_path)
    async with a_market(tmp_path, deposit=NanoUsd(0)) as stand:
        assert await expire(stand) == 0
        answers = [await bring_receipt(stand, tmp_path) for _ in range(2)]
        assert isinstance(answers[0], ReceiptTaken)
        assert answers[0] == answers[1]
        (receipt,) = await stand.receipts()
        assert (receipt.payer_id, receipt.charge) == (receipt.account_id, CHARGE)
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT - CHARGE, 0, CHARGE)


async def test_the_next_process_gives_back_every_hold_before_it_serves(tmp_path: Path) -> None:
    await killed_at("dispatch.before_capture", tmp_path)
    async with a_market(tmp_path, deposit=NanoUsd(0)) as stand:
        assert await release_orphans(stand.database) == 1
        assert await release_orphans(stand.database) == 0
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT, 0, 0)
        assert isinstance(await bring_receipt(stand, tmp_path), ReceiptTaken)
        (receipt,) = await stand.receipts()
        assert (receipt.payer_id, receipt.charge) == ("treasury", CHARGE)
