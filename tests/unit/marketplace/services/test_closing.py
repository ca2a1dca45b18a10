"""The end of a job while the books come and go: what was committed counts, also if its word was lost."""

from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.errors import NodesFailed, Unavailable
from tallystick.protocol.frames import ReceiptTaken
from tallystick.protocol.receipts import Finish
from tests.support.markets import Stand, a_market, a_request, answer_of
from tests.support.nodes import ScriptedNode, Work


def lose_the_word_of_the_next_commit(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a server's connection breaks in its COMMIT."""
    write, lost = stand.database.write_short, [True]

    async def forgetful(work: Any) -> Any:
        found = await write(work)
        if lost.pop() if lost else False:
            raise Unavailable("the connection broke")
        return found

    monkeypatch.setattr(stand.database, "write_short", forgetful)
    monkeypatch.setattr("marketplace.services.closing.PAUSES", (0.01, 0.01))


async def test_a_charge_whose_word_was_lost_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        lose_the_word_of_the_next_commit(stand, monkeypatch)
        text, _, completed = await stand.ask()
        assert text == "hello"
        account = await stand.account()
        assert (account.spent, account.held) == (completed.charge, 0)
        await node.until(lambda frame: isinstance(frame, ReceiptTaken))


async def test_a_release_whose_word_was_lost_pays_its_parts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await work.finish(Finish.HANDED_OVER)

    node = ScriptedNode(1, hands_over)
    async with a_market(tmp_path) as stand, stand.joined(node):
        lose_the_word_of_the_next_commit(stand, monkeypatch)
        running = await stand.market.submit(a_request())
        with pytest.raises(NodesFailed):
            await answer_of(running)
        account = await stand.account()
        assert (account.spent, account.held) == (0, 0)
        await node.until(lambda frame: isinstance(frame, ReceiptTaken))
        assert await stand.earned(node) > 0
