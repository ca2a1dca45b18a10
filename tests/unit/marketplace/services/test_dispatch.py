"""Jobs from acceptance to capture, over real sockets and books."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from marketplace.domain.errors import InsufficientBalance, NodesFailed, NoNode
from marketplace.domain.jobs import Delta, Wishes
from tallystick.protocol.frames import Job, ReceiptTaken
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish, receipt_charge, receipt_earning
from tests.support.markets import CONSUMER, DEPOSIT, a_market, a_request, answer_of
from tests.support.nodes import EOS, ScriptedNode, Work, an_offer, echo


async def test_a_completed_job_charges_its_tokens_and_nothing_else(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        text, ids, completed = await stand.ask()
        assert (text, ids) == ("hello", [*b"hello", EOS])
        assert completed.finish == Finish.EOS
        assert (completed.prompt_tokens, completed.output_tokens) == (5, 6)
        assert completed.charge == 11 * 300
        (part,) = completed.parts
        assert (part.node, part.operator, part.charge) == (node.address, node.operator, 3300)
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT - 3300, 0, 3300)
        (receipt,) = await stand.receipts()
        assert receipt.id == part.receipt_id
        assert await stand.earned(node) == 3300 - 165
        taken = await node.until(lambda frame: isinstance(frame, ReceiptTaken))
        assert isinstance(taken, ReceiptTaken)
        assert (taken.receipt_id, taken.epoch) == (part.receipt_id, 5)


async def test_without_a_node_nothing_is_held(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        node = ScriptedNode(1)
        async with stand.joined(node):
            pass
        with pytest.raises(NoNode, match="No node serves"):
            await stand.ask()
        assert await stand.jobs() == []
        assert (await stand.account()).held == 0


async def test_a_price_cap_below_all_asks_is_refused_with_the_cheapest(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        with pytest.raises(NoNode, match=r"cheapest asks \$0\.30 per million input"):
            await stand.ask(wishes=Wishes(max_output_price=NanoUsd(299)))
        assert await stand.jobs() == []


async def test_a_job_that_the_balance_does_not_cover_reaches_no_node(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path, deposit=NanoUsd(1000)) as stand, stand.joined(node):
        with pytest.raises(InsufficientBalance) as refused:
            await stand.ask()
        assert (refused.value.needed, refused.value.available) == (69 * 300, 1000)
        assert not any(isinstance(frame, Job) for frame in node.received)
        assert stand.slots.load(node.address, node.models[0].model_id) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 3, 5])
async def test_a_node_that_dies_is_replaced_in_mid_answer(tmp_path: Path, count: int) -> None:
    async def dies(work: Work) -> None:
        if count:
            await work.tokens(work.job.prompt_ids[:count])
        await asyncio.sleep(0.02)
        connection.vanish()

    first, second = ScriptedNode(1, dies), ScriptedNode(2)
    async with a_market(tmp_path) as stand, stand.joined(first) as connection:
        running = await stand.market.submit(a_request())
        async with stand.joined(second):
            text, ids, completed = await answer_of(running)
            assert (text, ids) == ("hello", [*b"hello", EOS])
            (job,) = [frame for frame in second.received if isinstance(frame, Job)]
            assert (job.first_position, job.resume_ids) == (count, tuple(b"hello"[:count]))
            assert (job.resume_text_bytes, job.bill_prompt, job.attempt) == (count, True, 1)
            assert completed.output_tokens == 6
            assert completed.charge == (5 + 6 - count) * 300
            assert await stand.earned(first) == 0
            assert (await stand.account()).spent == completed.charge


async def test_a_node_that_dies_after_its_last_token_leaves_a_whole_and_free_answer(tmp_path: Path) -> None:
    async def dies(work: Work) -> None:
        await work.tokens([*work.job.prompt_ids, EOS])
        await asyncio.sleep(0.02)
        connection.vanish()

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, dies)) as connection:
        text, _, completed = await stand.ask()
        assert (text, completed.finish, completed.charge, completed.parts) == ("hello", Finish.EOS, 0, ())


async def test_a_handed_over_part_is_charged_with_the_rest_and_the_prompt_once(tmp_path: Path) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await work.finish(Finish.HANDED_OVER)

    first, second = ScriptedNode(1, hands_over), ScriptedNode(2, models=(an_offer(slots=8),))
    async with a_market(tmp_path) as stand, stand.joined(first):
        running = await stand.market.submit(a_request())
        async with stand.joined(second):
            text, _, completed = await answer_of(running)
            assert text == "hello"
            assert [part.prompt_tokens for part in completed.parts] == [5, 0]
            assert [part.output_tokens for part in completed.parts] == [2, 4]
            assert completed.charge == 11 * 300
            assert len(await stand.receipts()) == 2
            for node in (first, second):
                await node.until(lambda frame: isinstance(frame, ReceiptTaken))


async def test_when_all_nodes_fail_the_consumer_pays_nothing_and_the_treasury_the_signed_part(
    tmp_path: Path,
) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:2])
        await work.finish(Finish.HANDED_OVER)

    async def fails(work: Work) -> None:
        await work.fail("engine")

    first = ScriptedNode(1, hands_over)
    async with a_market(tmp_path) as stand, stand.joined(first):
        running = await stand.market.submit(a_request())
        async with stand.joined(ScriptedNode(2, fails)):
            with pytest.raises(NodesFailed, match="Nothing was charged"):
                await answer_of(running)
        account = await stand.account()
        assert (account.balance, account.held, account.spent) == (DEPOSIT, 0, 0)
        (receipt,) = await stand.receipts()
        assert (receipt.payer_id, receipt.charge) == ("treasury", 7 * 300)
        assert await stand.earned(first) == 7 * 300 - 105
        (job,) = await stand.jobs()
        assert job.state == "failed"


async def test_attempts_are_limited(tmp_path: Path) -> None:
    tries = 0

    async def fails(work: Work) -> None:
        nonlocal tries
        tries += 1
        await work.fail("engine")

    async with a_market(tmp_path) as stand, contextlib.AsyncExitStack() as stack:
        for number in range(1, 7):
            await stack.enter_async_context(stand.joined(ScriptedNode(number, fails)))
        with pytest.raises(NodesFailed, match="4 attempts"):
            await stand.ask()
        assert tries == 4


async def test_a_stalled_node_is_cancelled_and_replaced(tmp_path: Path) -> None:
    async def stalls(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:1])
        await work.cancelled.wait()

    first, second = ScriptedNode(1, stalls), ScriptedNode(2)
    async with a_market(tmp_path) as stand, stand.joined(first):
        running = await stand.market.submit(a_request())
        async with stand.joined(second):
            text, _, completed = await answer_of(running)
            assert text == "hello"
            assert [part.node for part in completed.parts] == [second.address]
            (work,) = first.works.values()
            await asyncio.wait_for(work.cancelled.wait(), 1)


async def test_a_reader_that_leaves_pays_for_what_was_made(tmp_path: Path) -> None:
    async def slow(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:3])
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, slow)) as _:
        running = await stand.market.submit(a_request())
        first = await anext(running)
        assert isinstance(first, Delta)
        await running.aclose()
        await stand.all_ended()
        account = await stand.account()
        assert (account.spent, account.held) == (8 * 300, 0)
        (job,) = await stand.jobs()
        assert (job.state, job.finish) == ("done", Finish.CANCELLED)


async def test_a_reader_that_leaves_before_the_first_token_pays_nothing(tmp_path: Path) -> None:
    async def slow(work: Work) -> None:
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, slow)):
        running = await stand.market.submit(a_request())
        await running.aclose()
        await stand.all_ended()
        account = await stand.account()
        assert (account.spent, account.held) == (0, 0)
        assert await stand.receipts() == []


async def test_a_node_that_ignores_a_cancellation_does_not_keep_the_hold(tmp_path: Path) -> None:
    async def ignores(work: Work) -> None:
        await work.tokens(work.job.prompt_ids[:3])
        await asyncio.Event().wait()

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, ignores)):
        running = await stand.market.submit(a_request())
        await anext(running)
        await running.aclose()
        await stand.all_ended()
        account = await stand.account()
        assert (account.spent, account.held) == (0, 0)


async def test_a_submit_that_is_cancelled_leaves_no_hold(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        for delay in (0, 0.0005, 0.001, 0.002):
            task = asyncio.create_task(stand.market.submit(a_request()))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await stand.all_ended()
        assert (await stand.account()).held == 0
        assert stand.hub.nodes()[0].running == 0
        assert stand.slots.load(node.address, node.models[0].model_id) == 0  # type: ignore[arg-type]


async def test_many_jobs_at_once_each_get_their_answer(tmp_path: Path) -> None:
    node = ScriptedNode(1, models=(an_offer(slots=100),))
    async with a_market(tmp_path) as stand, stand.joined(node):
        texts = [f"job number {number}" for number in range(60)]
        answers = await asyncio.gather(
            *(stand.ask(prompt_ids=tuple(text.encode()), prompt_text=text) for text in texts)
        )
        assert [text for text, _, _ in answers] == texts
        charges = sum(completed.charge for _, _, completed in answers)
        assert (await stand.account()).spent == charges


async def test_jobs_beyond_the_slots_wait_their_turn(tmp_path: Path) -> None:
    busiest = 0

    async def slow(work: Work) -> None:
        nonlocal busiest
        busiest = max(busiest, stand.hub.nodes()[0].running)
        await asyncio.sleep(0.01)
        await echo(work)

    node = ScriptedNode(1, slow, models=(an_offer(slots=2),))
    async with a_market(tmp_path) as stand, stand.joined(node):
        answers = await asyncio.gather(*(stand.ask() for _ in range(8)))
        assert len(answers) == 8
        assert busiest <= 2


async def test_a_full_node_is_busy_after_the_wait(tmp_path: Path) -> None:
    async def hangs(work: Work) -> None:
        await work.cancelled.wait()

    node = ScriptedNode(1, hangs, models=(an_offer(slots=1),))
    async with a_market(tmp_path) as stand, stand.joined(node):
        running = await stand.market.submit(a_request())
        with pytest.raises(NoNode, match="busy"):
            await stand.ask()
        await running.aclose()


async def test_prices_are_fixed_at_acceptance_and_a_dearer_node_does_not_go_on(tmp_path: Path) -> None:
    async def fails(work: Work) -> None:
        await work.fail("engine")

    dear = ScriptedNode(2, models=(an_offer(output_price=301),))
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, fails)), stand.joined(dear):
        with pytest.raises(NodesFailed, match="at this price"):
            await stand.ask()
        assert not any(isinstance(frame, Job) for frame in dear.received)


async def test_a_seeded_request_gets_the_same_seed_again_and_others_do_not(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        for seed in (7, 7, 8, None, None):
            await stand.ask(caller_seed=seed)
        seeds = [frame.job_seed for frame in node.received if isinstance(frame, Job)]
        assert seeds[0] == seeds[1]
        assert len(set(seeds)) == 4


async def test_the_account_on_the_receipt_is_the_payer(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        await stand.ask()
        (work,) = node.works.values()
        assert work.job.account == CONSUMER
        receipt = work.a_receipt(Finish.EOS).receipt
        assert receipt_charge(receipt) == receipt_earning(receipt) + 165


async def test_length_ends_an_answer_at_max_tokens(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        text, _, completed = await stand.ask(parameters=Parameters(max_tokens=2))
        assert (text, completed.finish, completed.charge) == ("he", Finish.LENGTH, 7 * 300)
