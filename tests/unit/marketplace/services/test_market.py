"""The edges of a job's life: stopping, deadlines, bugs, slow readers, models without token ids."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from marketplace.domain.errors import BadRequest, Broken, NodesFailed, NotFound, Unavailable
from marketplace.domain.jobs import Completed, Delta
from marketplace.services.closing import PAUSES
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tallystick.protocol.commitments import numerics_class_id, opaque_output_commitment
from tallystick.protocol.frames import Job, TokenLogprob
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.hubs import eventually
from tests.support.markets import QUICK, QUICK_HUB, a_market, a_request, answer_of
from tests.support.nodes import EOS, MANIFEST, ScriptedNode, Work, an_offer

OPAQUE = canonical_json(Manifest(name="opaque", family="openai", context_length=4096, numerics="opaque"))
OPAQUE_OFFER = an_offer(name="opaque", manifest=OPAQUE, model_id=model_id(OPAQUE))


async def forever(work: Work) -> None:
    await work.tokens(b"he")
    await asyncio.Event().wait()


async def test_a_market_that_stops_takes_no_jobs_and_ends_those_that_hang(tmp_path: Path) -> None:
    rules = replace(QUICK, stall=60.0, first_token=60.0)
    node = ScriptedNode(1, forever)
    async with a_market(tmp_path, rules=rules) as stand, stand.joined(node):
        running = await stand.market.submit(a_request())
        await stand.market.close(timeout=0.1)
        with pytest.raises(NodesFailed, match="stopping"):
            await answer_of(running)
        with pytest.raises(Unavailable, match="stopping"):
            await stand.ask()
        assert (await stand.account()).held == 0
        assert stand.history.of(node.address).failed == 0


async def test_a_job_beyond_its_time_is_ended_before_its_hold_expires(tmp_path: Path) -> None:
    async def drips(work: Work) -> None:
        while not work.cancelled.is_set():
            await work.tokens(b"a")
            await asyncio.sleep(0.1)

    rules = replace(QUICK, hold_expiry=1.5, cancel=0.5)
    async with a_market(tmp_path, rules=rules) as stand, stand.joined(ScriptedNode(1, drips)):
        with pytest.raises(NodesFailed, match="too long"):
            await stand.ask()
        (job,) = await stand.jobs()
        assert job.state == "failed"
        assert job.finished_at is not None
        assert job.finished_at < job.expires_at


async def test_without_room_in_the_bond_no_work_is_taken(tmp_path: Path) -> None:
    has_room = True
    async with (
        a_market(tmp_path, has_bond_room=lambda: has_room) as stand,
        stand.joined(ScriptedNode(1)),
    ):
        await stand.ask()
        has_room = False
        with pytest.raises(Unavailable, match="bond"):
            await stand.ask()


async def test_a_prompt_that_fills_the_context_is_refused_at_once(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        with pytest.raises(BadRequest) as refused:
            await stand.ask(prompt_ids=(97,) * 4096)
        assert refused.value.code == "context_length_exceeded"
        assert await stand.jobs() == []


async def test_an_answer_may_end_at_the_end_of_the_context(tmp_path: Path) -> None:
    async def fills(work: Work) -> None:
        await work.tokens(b"abc")
        await work.finish(Finish.LENGTH)

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, fills)):
        _, _, completed = await stand.ask(prompt_ids=(97,) * 4093, parameters=Parameters(max_tokens=9))
        assert (completed.finish, completed.output_tokens) == (Finish.LENGTH, 3)


async def test_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        with pytest.raises(NotFound):
            await stand.ask(model_id=bytes(32))


async def test_a_bug_in_the_driver_gives_the_hold_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        monkeypatch.setattr("marketplace.services.attempting.check_receipt", lambda *_: 1 / 0)
        with pytest.raises(Broken):
            await stand.ask()
        await stand.all_ended()
        account = await stand.account()
        assert (account.held, account.spent) == (0, 0)
        assert stand.slots.waiting() == 0
        assert stand.hub.nodes()[0].running == 0


async def test_a_capture_is_tried_again_when_the_books_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.services.closing.PAUSES", (0.01, 0.01))
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        write, failures = stand.database.write_short, 2

        async def unwilling(work: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise Unavailable("The disk is busy.")
            return await write(work)

        monkeypatch.setattr(stand.database, "write_short", unwilling)
        running = await stand.market.submit(a_request())
        _, _, completed = await answer_of(running)
        assert (failures, completed.charge) == (0, 3300)
        assert len(PAUSES) >= 2


async def test_a_reader_that_does_not_read_delays_no_capture(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        running = await stand.market.submit(a_request())
        await stand.all_ended()
        assert (await stand.account()).spent == 3300
        text, _, completed = await answer_of(running)
        assert (text, completed.charge) == ("hello", 3300)


async def test_a_reader_that_closes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        running = await stand.market.submit(a_request())
        await answer_of(running)
        await running.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(running)
        assert (await stand.account()).spent == 3300


async def test_likelihoods_come_through(tmp_path: Path) -> None:
    logprobs = tuple(TokenLogprob(-0.5, ((97, -0.5), (98, -1.5))) for _ in range(3))

    async def knows(work: Work) -> None:
        await work.tokens([97, 97, EOS], "aa", logprobs=logprobs)
        await work.finish(Finish.EOS)

    node = ScriptedNode(1, knows)
    async with a_market(tmp_path) as stand, stand.joined(node):
        events = [event async for event in await stand.market.submit(a_request(top_logprobs=2))]
        assert isinstance(events[0], Delta)
        assert events[0].logprobs == logprobs
        assert next(iter(node.works.values())).job.top_logprobs == 2


async def test_the_rest_of_a_text_is_delivered_when_the_node_goes_after_its_last_token(
    tmp_path: Path,
) -> None:
    async def dies(work: Work) -> None:
        await work.tokens([*b"hello", EOS], "hel")
        await asyncio.sleep(0.02)
        connection.vanish()

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, dies)) as connection:
        text, _, completed = await stand.ask()
        assert (text, completed.charge) == ("hello", 0)


async def opaque(work: Work, *, tokens: int = 2, prompt: int = 3) -> None:
    """Answer like an engine that shows no ids: text, and counts from its own usage."""
    await work.tokens((), "hello ")
    await work.tokens((), "world")
    await work.finish(
        Finish.EOS,
        output_tokens=tokens,
        prompt_tokens=prompt,
        output_commitment=opaque_output_commitment(work.job.salt, b"hello world"),
        numerics_class=numerics_class_id("opaque"),
    )


@pytest.mark.parametrize(
    ("tokens", "prompt", "charge"),
    [(2, 3, 1500), (0, 3, 0), (65, 3, 0), (2, 6, 0), (24, 5, 24 * 300 + 1500)],
)
async def test_an_opaque_model_is_paid_by_its_own_plausible_counts(
    tmp_path: Path, tokens: int, prompt: int, charge: int
) -> None:
    async def script(work: Work) -> None:
        if tokens == 24:
            await work.tokens((), "a " * 20)
            await work.finish(
                Finish.EOS,
                output_tokens=24,
                prompt_tokens=5,
                output_commitment=opaque_output_commitment(work.job.salt, b"a " * 20),
                numerics_class=numerics_class_id("opaque"),
            )
        else:
            await opaque(work, tokens=tokens, prompt=prompt)

    node = ScriptedNode(1, script, models=(OPAQUE_OFFER,))
    async with a_market(tmp_path) as stand, stand.joined(node):
        request = {"model_id": model_id(OPAQUE), "prompt_ids": (), "prompt_text": "hello"}
        running = await stand.market.submit(a_request(**request))
        if charge == 0 and tokens:
            with pytest.raises(NodesFailed):
                await answer_of(running)
        else:
            text, ids, completed = await answer_of(running)
            assert ids == []
            assert text.startswith(("hello", "a a"))
            assert completed.charge == charge
        await stand.all_ended()
        account = await stand.account()
        assert (account.spent, account.held) == (charge, 0)


async def says_opaquely(work: Work, text: str, finish: Finish, tokens: int) -> None:
    """Send `text` without ids, if there is any, and sign for `tokens`."""
    if text:
        await work.tokens((), text)
    await work.finish(
        finish,
        output_tokens=tokens,
        output_commitment=opaque_output_commitment(work.job.salt, text.encode()),
        prompt_tokens=5 if work.job.bill_prompt else 0,
        numerics_class=numerics_class_id("opaque"),
    )


OPAQUE_REQUEST = {"model_id": model_id(OPAQUE), "prompt_ids": (), "prompt_text": "hello"}


async def test_two_nodes_without_ids_cost_no_more_than_was_held(tmp_path: Path) -> None:
    async def hands_over(work: Work) -> None:
        await says_opaquely(work, "", Finish.HANDED_OVER, 1)

    async def answers(work: Work) -> None:
        await says_opaquely(work, "a b c d ", Finish.LENGTH, 8)

    first = ScriptedNode(1, hands_over, models=(OPAQUE_OFFER,))
    second = ScriptedNode(2, answers, models=(OPAQUE_OFFER,))
    async with a_market(tmp_path) as stand, stand.joined(first):
        running = await stand.market.submit(a_request(**OPAQUE_REQUEST, parameters=Parameters(max_tokens=8)))
        async with stand.joined(second):
            text, _, completed = await answer_of(running)
        assert text == "a b c d "
        assert completed.charge == (5 + 8) * 300
        assert (await stand.treasury()).spent == 0
        assert await stand.earned(first) == 0


@pytest.mark.parametrize(
    ("finish", "stops", "tokens", "charge"),
    [
        (Finish.EOS, (), 1, 6 * 300),
        (Finish.EOS, (), 2, 0),
        (Finish.LENGTH, (), 2, 0),
        (Finish.EOS, ("\n\nHuman:",), 5, 10 * 300),
        (Finish.STOP_STRING, ("\n\nHuman:",), 5, 10 * 300),
        (Finish.STOP_STRING, ("X",), 4, 0),
    ],
)
async def test_an_answer_without_ids_and_text_costs_its_end_token_or_stop_string(
    tmp_path: Path, finish: Finish, stops: tuple[str, ...], tokens: int, charge: int
) -> None:
    async def ends_at_once(work: Work) -> None:
        await says_opaquely(work, "", finish, tokens)

    node = ScriptedNode(1, ends_at_once, models=(OPAQUE_OFFER,))
    async with a_market(tmp_path) as stand, stand.joined(node):
        running = await stand.market.submit(a_request(**OPAQUE_REQUEST, parameters=Parameters(stop=stops)))
        if charge:
            assert (await answer_of(running))[2].charge == charge
        else:
            with pytest.raises(NodesFailed):
                await answer_of(running)
        await stand.all_ended()
        assert (await stand.account()).spent == charge


async def test_the_prompt_travels_in_both_forms(tmp_path: Path) -> None:
    node = ScriptedNode(1)
    async with a_market(tmp_path, hub_rules=QUICK_HUB) as stand, stand.joined(node):
        await stand.ask()
        await eventually(lambda: any(isinstance(frame, Job) for frame in node.received))
        (job,) = [frame for frame in node.received if isinstance(frame, Job)]
        assert (bytes(job.prompt_ids), job.prompt_text) == (b"hello", "hello")


async def test_the_last_event_is_the_charge(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        events = [event async for event in await stand.market.submit(a_request())]
        assert [type(event) for event in events] == [Delta, Completed]
        last = events[-1]
        assert isinstance(last, Completed)
        assert last.charge == 3300


async def test_a_prompt_that_fits_no_message_is_refused_before_anything_is_held(tmp_path: Path) -> None:
    wide = canonical_json(msgspec.structs.replace(MANIFEST, name="wide", context_length=2**22))
    offer = an_offer(name="wide", manifest=wide, model_id=model_id(wide))
    node = ScriptedNode(1, models=(offer,))
    async with a_market(tmp_path) as stand, stand.joined(node):
        with pytest.raises(BadRequest, match="on its way to a node") as refused:
            await stand.ask(model_id=offer.model_id, prompt_ids=(70_000,) * 700_000)
        assert refused.value.code == "prompt_too_large"
        assert await stand.jobs() == []
        assert not any(isinstance(frame, Job) for frame in node.received)


async def test_a_job_that_outgrows_a_message_fails_at_once_and_nobody_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.transport.session.MAX_MESSAGE_BYTES", 100)
    node = ScriptedNode(1)
    async with a_market(tmp_path) as stand, stand.joined(node):
        with pytest.raises(NodesFailed, match="exceeds the 100 bytes"):
            await stand.ask()
        await stand.all_ended()
        assert stand.history.of(node.address).unsaved() == (0, 0)
        account = await stand.account()
        assert (account.held, account.spent) == (0, 0)
