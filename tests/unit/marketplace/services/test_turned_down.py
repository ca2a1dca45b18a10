"""Requests that nodes call impossible: the consumer is told, and no node is worse off unless it was wrong."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.domain.errors import NodesFailed, TurnedDown
from marketplace.domain.history import NodeHistory
from tallystick.protocol.frames import Job
from tallystick.protocol.receipts import Finish
from tests.support.markets import DEPOSIT, QUICK, Stand, a_market
from tests.support.nodes import ScriptedNode, Work, operator_of

TWO = replace(QUICK, third_opinion=0.0)
THREE = replace(QUICK, third_opinion=1.0)
CLEAN = (0, 0, 1.0)


async def refuses(work: Work) -> None:
    await work.fail("request")


async def finds_it_too_long(work: Work) -> None:
    await work.fail("too_long")


async def breaks(work: Work) -> None:
    await work.fail("engine")


@contextlib.asynccontextmanager
async def joined(stand: Stand, *nodes: ScriptedNode) -> AsyncIterator[None]:
    """Connect nodes, and have them tried in this order."""
    async with contextlib.AsyncExitStack() as stack:
        for rank, node in enumerate(nodes):
            stand.history.of(node.address).first_token_ms = rank * 1000.0
            await stack.enter_async_context(stand.joined(node))
        yield


def record(stand: Stand, node: ScriptedNode) -> tuple[int, int, float]:
    """Return a node's failures, its rest and its share of successes."""
    found: NodeHistory = stand.history.of(node.address)
    return found.failed, found.rests_until_ms, found.success


def jobs(node: ScriptedNode) -> int:
    return sum(isinstance(frame, Job) for frame in node.received)


@pytest.mark.parametrize("script", [refuses, finds_it_too_long])
async def test_a_request_that_two_operators_turn_down_is_the_consumers_fault(
    tmp_path: Path, script: object
) -> None:
    first, second, third = ScriptedNode(1, script), ScriptedNode(2, script), ScriptedNode(3)  # type: ignore[arg-type]
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, first, second, third):
        for _ in range(3):
            with pytest.raises(TurnedDown, match=r"each of 2 operators .* Nothing was charged"):
                await stand.ask()
        assert [jobs(node) for node in (first, second, third)] == [3, 3, 0]
        assert [record(stand, node) for node in (first, second)] == [CLEAN, CLEAN]
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT, 0, 0)


async def test_what_an_engine_said_is_not_passed_on(tmp_path: Path) -> None:
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, ScriptedNode(1, finds_it_too_long)):
        with pytest.raises(TurnedDown) as caught:
            await stand.ask()
        assert caught.value.message == (
            "This request was turned down: the only operator that was asked finds it too long; shorten it, "
            "or lower max_tokens. Nothing was charged."
        )


async def test_who_refuses_what_another_does_was_wrong_but_need_not_rest(tmp_path: Path) -> None:
    lazy, honest = ScriptedNode(1, refuses), ScriptedNode(2)
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, lazy, honest):
        text, _, completed = await stand.ask()
        assert (text, completed.parts[0].node) == ("hello", honest.address)
        assert record(stand, lazy) == (1, 0, 0.9)
        assert record(stand, honest)[0] == 0


async def test_two_operators_in_league_are_found_out_by_a_third(tmp_path: Path) -> None:
    first, second, honest = ScriptedNode(1, refuses), ScriptedNode(2, refuses), ScriptedNode(3)
    async with a_market(tmp_path, rules=THREE) as stand, joined(stand, first, second, honest):
        assert (await stand.ask())[0] == "hello"
        assert [record(stand, node) for node in (first, second)] == [(1, 0, 0.9)] * 2


async def test_an_operators_second_node_is_no_second_opinion(tmp_path: Path) -> None:
    first, sibling = (ScriptedNode(number, refuses, operator=operator_of(9)) for number in (1, 2))
    other = ScriptedNode(3)
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, first, sibling, other):
        assert (await stand.ask())[0] == "hello"
        assert (jobs(first), jobs(sibling), jobs(other)) == (1, 0, 1)


async def test_an_operators_second_node_is_asked_when_nobody_else_is_there(tmp_path: Path) -> None:
    first = ScriptedNode(1, refuses, operator=operator_of(9))
    sibling = ScriptedNode(2, operator=operator_of(9))
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, first, sibling):
        assert (await stand.ask())[0] == "hello"
        assert record(stand, first) == (1, 0, 0.9)


async def test_a_node_that_broke_agrees_with_nobody(tmp_path: Path) -> None:
    first, broken = ScriptedNode(1, refuses), ScriptedNode(2, breaks)
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, first, broken):
        with pytest.raises(NodesFailed, match="no other node"):
            await stand.ask()
        assert record(stand, first) == CLEAN
        assert record(stand, broken)[0] == 1


async def test_a_refusal_in_mid_answer_is_a_failure(tmp_path: Path) -> None:
    async def begins(work: Work) -> None:
        await work.tokens(b"he")
        await work.finish(Finish.HANDED_OVER)

    async def gives_up(work: Work) -> None:
        await work.tokens(b"l")
        await work.fail("request")

    first, second, third = ScriptedNode(1, begins), ScriptedNode(2, gives_up), ScriptedNode(3, refuses)
    async with a_market(tmp_path, rules=TWO) as stand, joined(stand, first, second, third):
        with pytest.raises(NodesFailed):
            await stand.ask()
        for node in (second, third):
            failed, rests_until, _ = record(stand, node)
            assert failed == 1
            assert rests_until > 0
