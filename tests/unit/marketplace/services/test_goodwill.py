"""The treasury's budget for unfinished answers."""

from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import NodesFailed, Unavailable
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.goodwill import DAY_MS, Goodwill
from marketplace.storage.queries import receipts
from tallystick.protocol.frames import ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import Finish
from tests.support.markets import a_market
from tests.support.nodes import ScriptedNode, Work

ONE, TWO = Address("0x" + "01" * 20), Address("0x" + "02" * 20)


def test_a_budget_is_spent_once_and_fills_within_a_day() -> None:
    clock = ManualClock()
    goodwill = Goodwill(clock, NanoUsd(1000))
    assert goodwill.spend(ONE, NanoUsd(600))
    assert not goodwill.spend(ONE, NanoUsd(401))
    assert goodwill.spend(ONE, NanoUsd(400))
    assert not goodwill.spend(ONE, NanoUsd(1))
    clock.advance(DAY_MS // 2)
    assert not goodwill.spend(ONE, NanoUsd(501))
    assert goodwill.spend(ONE, NanoUsd(500))
    clock.advance(10 * DAY_MS)
    assert not goodwill.spend(ONE, NanoUsd(1001))
    assert goodwill.spend(ONE, NanoUsd(1000))


def test_each_operator_has_a_budget_of_its_own() -> None:
    goodwill = Goodwill(ManualClock(), NanoUsd(1000))
    assert goodwill.spend(ONE, NanoUsd(1000))
    assert goodwill.spend(TWO, NanoUsd(1000))


def test_what_is_refunded_may_be_spent_again_and_no_more() -> None:
    clock = ManualClock()
    goodwill = Goodwill(clock, NanoUsd(1000))
    assert goodwill.spend(ONE, NanoUsd(600))
    goodwill.refund(ONE, NanoUsd(600))
    assert goodwill.spend(ONE, NanoUsd(1000))
    clock.advance(DAY_MS // 2)
    goodwill.refund(ONE, NanoUsd(1000))
    assert not goodwill.spend(ONE, NanoUsd(1001))
    assert goodwill.spend(ONE, NanoUsd(1000))


def test_a_clock_that_steps_back_uses_nothing_up() -> None:
    clock = ManualClock()
    goodwill = Goodwill(clock, NanoUsd(1000))
    assert goodwill.spend(ONE, NanoUsd(400))
    clock.jump(-10 * DAY_MS)
    assert goodwill.spend(ONE, NanoUsd(600))
    assert not goodwill.spend(ONE, NanoUsd(1))
    clock.advance(DAY_MS)
    assert goodwill.spend(ONE, NanoUsd(1000))


async def test_books_that_do_not_answer_cost_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await work.finish(Finish.HANDED_OVER)

    monkeypatch.setattr("marketplace.services.closing.PAUSES", (0.01,))
    async with a_market(tmp_path, goodwill=NanoUsd(2100)) as stand:
        node, write = ScriptedNode(1, hands_over), stand.database.write_short
        failures = iter([Unavailable("The disk is busy.")] * 2)

        async def unwilling(work: Any) -> Any:
            for failure in failures:
                raise failure
            return await write(work)

        async with stand.joined(node):
            monkeypatch.setattr(stand.database, "write_short", unwilling)
            with pytest.raises(Unavailable):
                await stand.ask()
            # The job's end is tried once more after that; the budget is there for its part.
            told = await node.until(lambda one: isinstance(one, ReceiptTaken | ReceiptRefused))
            assert isinstance(told, ReceiptTaken)
        assert [receipt.charge for receipt in await stand.receipts()] == [2100]
        assert not stand.late.goodwill.spend(node.operator, NanoUsd(1000))


async def test_an_operator_that_keeps_handing_over_to_nobody_drains_no_more_than_the_budget(
    tmp_path: Path,
) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await work.finish(Finish.HANDED_OVER)

    async with a_market(tmp_path, goodwill=NanoUsd(5000)) as stand:
        for number in range(4):
            node = ScriptedNode(number + 1, hands_over, operator=ONE)
            async with stand.joined(node):
                with pytest.raises(NodesFailed):
                    await stand.ask()
                if number >= 2:
                    refused = await node.until(lambda frame: isinstance(frame, ReceiptRefused))
                    assert isinstance(refused, ReceiptRefused)
                    assert "budget" in refused.reason
        assert [receipt.charge for receipt in await stand.receipts()] == [2100, 2100]
        assert (await stand.account()).spent == 0
        # A new process knows from the books what was paid.
        paid = await stand.database.read(lambda session: receipts.paid_by(session, TREASURY_ID, 0))
        assert [tuple(one) for one in paid] == [(ONE, 4200)]


def test_a_restart_gives_nobody_more() -> None:
    clock = ManualClock()
    before, paid = Goodwill(clock, NanoUsd(1000)), []
    for step in range(90):
        clock.advance(DAY_MS // 40)
        for operator, amount in ((ONE, 90), (TWO, step // 10)):
            if before.spend(operator, NanoUsd(amount)):
                paid.append((operator, NanoUsd(amount), clock.now_ms()))
    after = Goodwill(clock, NanoUsd(1000))
    since = clock.now_ms() - DAY_MS
    after.restore((operator, amount) for operator, amount, at in paid if at > since)

    def room(goodwill: Goodwill, operator: Address) -> int:
        return sum(goodwill.spend(operator, NanoUsd(1)) for _ in range(1001))

    assert room(after, ONE) <= room(before, ONE)
    assert 500 < room(after, TWO) <= room(before, TWO)
    clock.advance(DAY_MS)
    assert room(after, ONE) == 1000
