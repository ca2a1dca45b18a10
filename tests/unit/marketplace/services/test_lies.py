"""Nodes that lie: what they sign or stream is not taken, costs the consumer nothing, and is remembered."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.errors import NodesFailed
from marketplace.domain.jobs import Delta
from tallystick.protocol.commitments import numerics_class_id, output_commitment
from tallystick.protocol.frames import Finished, ReceiptTaken, Tokens
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish, SignedReceipt
from tests.support.hubs import eventually
from tests.support.markets import DEPOSIT, Stand, a_market, a_request, answer_of
from tests.support.nodes import EOS, MODEL_ID, Script, ScriptedNode, Work, key_of

OTHER = b"\x99" * 32

LIES: list[tuple[str, Any]] = [
    ("attempt", 1),
    ("offer_hash", OTHER),
    ("account", "0x" + "ab" * 20),
    ("node", key_of(77).address),
    ("model_id", OTHER),
    ("parameters_hash", OTHER),
    ("job_seed", OTHER),
    ("prompt_commitment", OTHER),
    ("output_commitment", OTHER),
    ("prompt_tokens", 6),
    ("output_tokens", 7),
    ("first_position", 1),
    ("finish", Finish.LENGTH),
    ("finish", Finish.CANCELLED),
    ("finish", Finish.STOP_STRING),
    ("finish", 9),
    ("text_bytes", 6),
    ("sketch_root", OTHER),
    ("numerics_class", numerics_class_id("fp32")),
    ("input_price", 301),
    ("output_price", 301),
    ("fee_bps", 0),
    ("started_at", 1),
    ("finished_at", 2**62),
    ("block_number", 10**9),
    ("nonce", b"short"),
]


async def ask_liar(stand: Stand, script: Script, **request: Any) -> ScriptedNode:
    """Ask a node that lies with an otherwise complete answer; nothing of it may be charged."""
    node = ScriptedNode(1, script)
    async with stand.joined(node):
        running = await stand.market.submit(a_request(**request))
        try:
            _, _, completed = await answer_of(running)
            assert (completed.charge, completed.parts) == (0, ())
        except NodesFailed:
            pass
        await stand.all_ended()
        assert await stand.receipts() == []
        account = await stand.account()
        assert (account.balance, account.held) == (DEPOSIT, 0)
        assert not any(isinstance(frame, ReceiptTaken) for frame in node.received)
        record = stand.history.of(node.address)
        assert (record.done, record.failed) == (0, 1)
    return node


@pytest.mark.parametrize(("field", "value"), LIES)
async def test_a_receipt_with_a_wrong_field_is_not_taken(tmp_path: Path, field: str, value: Any) -> None:
    async def lies(work: Work) -> None:
        await work.tokens([*b"hello", EOS])
        if field == "nonce":
            await _short_nonce(work)
        else:
            await work.finish(Finish.EOS, **{field: value})

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies)


async def _short_nonce(work: Work) -> None:
    import msgspec

    signed = work.a_receipt(Finish.EOS)
    receipt = msgspec.structs.replace(signed.receipt, nonce=b"short")
    await work.send([Finished(receipt=SignedReceipt(receipt=receipt, signature=signed.signature))])


async def test_a_receipt_signed_by_another_key_is_not_taken(tmp_path: Path) -> None:
    async def lies(work: Work) -> None:
        await work.tokens([*b"hello", EOS])
        await work.send([Finished(receipt=work.a_receipt(Finish.EOS, signer=key_of(2)))])

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies)


async def test_a_receipt_for_more_tokens_than_were_streamed_is_not_taken(tmp_path: Path) -> None:
    async def lies(work: Work) -> None:
        await work.tokens([*b"hello", EOS])
        more = [*b"hello and more", EOS]
        await work.finish(
            Finish.EOS, output_tokens=len(more), output_commitment=output_commitment(work.job.salt, more)
        )

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies)


@pytest.mark.parametrize(
    ("ids", "text", "finish"),
    [
        ([*b"hello", EOS], "hallo", Finish.EOS),
        ([*b"hello", EOS], "hello!", Finish.EOS),
        ([*b"hello", EOS], "hell", Finish.EOS),
        ([*b"hel", EOS, *b"lo", EOS], "hello", Finish.EOS),
        ([*b"hello"], "hello", Finish.LENGTH),
        ([*b"hello"], "hello", Finish.EOS),
        ([*b"hello", EOS], "hello", Finish.HANDED_OVER),
        ([*b"he", 300], "he", Finish.HANDED_OVER),
    ],
)
async def test_an_answer_whose_parts_contradict_each_other_is_not_paid(
    tmp_path: Path, ids: list[int], text: str, finish: Finish
) -> None:
    async def lies(work: Work) -> None:
        await work.tokens(ids, text)
        await work.finish(finish)

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies)


@pytest.mark.parametrize(
    ("ids", "text", "stop"),
    [
        ([*b"hello"], "hel", "lo"),
        ([*b"hello"], "hello", "ll"),
        ([*b"hello"], "h", "ll"),
        ([*b"hello", EOS], "hello", "xx"),
    ],
)
async def test_a_stop_string_must_occur_where_the_text_was_trimmed(
    tmp_path: Path, ids: list[int], text: str, stop: str
) -> None:
    async def lies(work: Work) -> None:
        await work.tokens(ids, text)
        await work.finish(Finish.STOP_STRING, stop=stop)

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies, parameters=Parameters(max_tokens=64, stop=("ll", "xx")))


@pytest.mark.parametrize("finish", [Finish.STOP_STRING, Finish.HANDED_OVER])
@pytest.mark.parametrize("padding", [b"A" * 57, b"A"])
async def test_tokens_past_a_stop_string_are_not_paid(tmp_path: Path, finish: Finish, padding: bytes) -> None:
    async def pads(work: Work) -> None:
        await work.tokens([*b"hiX", *padding], "hi")
        await work.finish(finish, stop="X")

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, pads, parameters=Parameters(max_tokens=64, stop=("X",)))


async def test_a_node_that_goes_on_past_another_nodes_stop_string_is_not_paid(tmp_path: Path) -> None:
    async def hands_over(work: Work) -> None:
        await work.tokens(b"hi#", "hi")
        await work.finish(Finish.HANDED_OVER)

    async def pads(work: Work) -> None:
        await work.tokens(b"XAAAA", "")
        await work.finish(Finish.HANDED_OVER)

    liar = ScriptedNode(2, pads)
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, hands_over)):
        running = await stand.market.submit(a_request(parameters=Parameters(max_tokens=64, stop=("#X",))))
        async with stand.joined(liar):
            text, _, completed = await answer_of(running)
            assert (text, completed.finish) == ("hi", Finish.STOP_STRING)
            assert completed.charge == (5 + 3) * 300
            assert await stand.earned(liar) == 0


async def test_padding_is_not_paid_after_the_reader_has_left_either(tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def pads(work: Work) -> None:
        await work.tokens([*b"hiX", *b"A" * 57], "hi")
        sent.set()
        await work.cancelled.wait()
        await work.finish(Finish.CANCELLED)

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, pads)):
        running = await stand.market.submit(a_request(parameters=Parameters(max_tokens=64, stop=("X",))))
        await sent.wait()
        assert isinstance(await anext(running), Delta)
        await running.aclose()
        await stand.all_ended()
        assert ((await stand.account()).spent, await stand.receipts()) == (0, [])


async def test_a_stop_string_trims_the_text_and_not_the_ids(tmp_path: Path) -> None:
    async def stops(work: Work) -> None:
        await work.tokens(b"hell", "he")
        await work.finish(Finish.STOP_STRING, stop="ll")

    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1, stops)):
        text, ids, completed = await stand.ask(parameters=Parameters(max_tokens=64, stop=("xx", "ll")))
        assert (text, ids) == ("he", [*b"hell"])
        assert (completed.finish, completed.stop) == (Finish.STOP_STRING, "ll")
        assert completed.charge == 9 * 300


@pytest.mark.parametrize(
    "changes",
    [{"position": 3}, {"ids": ()}, {"ids": tuple(range(65))}, {"job_id": OTHER}, {"attempt": 5}],
)
async def test_tokens_out_of_order_are_never_delivered(tmp_path: Path, changes: dict[str, Any]) -> None:
    async def lies(work: Work) -> None:
        frame = work.a_tokens_frame([*b"hello", EOS], "" if changes.get("ids") == () else "hello")
        await work.send([_changed(frame, changes)])
        await work.finish(Finish.EOS)

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies)


def _changed(frame: Tokens, changes: dict[str, Any]) -> Tokens:
    import msgspec

    return msgspec.structs.replace(frame, **changes)


async def test_likelihoods_that_are_missing_are_misbehaviour(tmp_path: Path) -> None:
    async def lies(work: Work) -> None:
        await work.tokens([*b"hello", EOS])
        await work.finish(Finish.EOS)

    async with a_market(tmp_path) as stand:
        await ask_liar(stand, lies, top_logprobs=2)


async def test_a_liar_rests_and_an_honest_node_finishes_the_job(tmp_path: Path) -> None:
    async def lies(work: Work) -> None:
        await work.tokens(b"he")
        await work.finish(Finish.HANDED_OVER, output_tokens=3)

    liar, honest = ScriptedNode(1, lies), ScriptedNode(2)
    async with a_market(tmp_path) as stand, stand.joined(liar):
        running = await stand.market.submit(a_request())
        async with stand.joined(honest):
            text, _, completed = await answer_of(running)
            assert text == "hello"
            assert completed.charge == (5 + 4) * 300
            assert stand.history.of(liar.address).rests_until_ms > 0
            for _ in range(10):
                await stand.ask()
            assert len(liar.works) == 1


async def test_a_rejected_receipt_is_not_taken_later_either(tmp_path: Path) -> None:
    async def lies(work: Work) -> None:
        await work.tokens(b"he")
        await work.finish(Finish.HANDED_OVER, output_tokens=3)

    async with a_market(tmp_path) as stand:
        node = ScriptedNode(1, lies)
        async with stand.joined(node) as connection:
            running = await stand.market.submit(a_request())
            with pytest.raises(NodesFailed):
                await answer_of(running)
            (work,) = node.works.values()
            await connection.send([Finished(receipt=work.a_receipt(Finish.HANDED_OVER))])
            await eventually(lambda: any("differ" in getattr(one, "reason", "") for one in node.received))
        assert await stand.receipts() == []


async def test_the_model_id_of_the_test_is_the_one_of_the_catalog(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, stand.joined(ScriptedNode(1)):
        assert stand.catalog.resolve("echo").id == MODEL_ID
