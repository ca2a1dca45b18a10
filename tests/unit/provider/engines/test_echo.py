import asyncio
from dataclasses import replace

import pytest

from provider.engines.base import EngineEnd, EngineEvent, EngineJob, EngineRefused, EngineTokens
from provider.engines.echo import CONTEXT_LENGTH, EchoEngine
from tallystick.models.chat import render_chat
from tallystick.models.manifest import decode_manifest
from tallystick.models.tokenizer import EOS_BYTE, ByteTokenizer
from tallystick.protocol.frames import Job
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish


def job_for(engine: EchoEngine, said: str, **overrides: object) -> EngineJob:
    prompt = render_chat(
        engine.manifest, [{"role": "system", "content": "S"}, {"role": "user", "content": said}]
    )
    parameters = Parameters(**{"max_tokens": 1000} | dict(overrides.pop("parameters", {})))  # type: ignore[call-overload]
    job = EngineJob(
        job_id=bytes(32),
        attempt=0,
        prompt_ids=tuple(ByteTokenizer().encode(prompt)),
        prompt_text=prompt,
        parameters=parameters,
        job_seed=bytes(32),
    )
    return replace(job, **overrides)  # type: ignore[arg-type]


async def run(engine: EchoEngine, job: EngineJob) -> tuple[list[int], str, EngineEnd]:
    events: list[EngineEvent] = [event async for event in engine.generate(job)]
    tokens = [event for event in events if isinstance(event, EngineTokens)]
    ids = [one for event in tokens for one in event.ids]
    at = job.first_position
    for event in tokens:
        assert event.position == at
        at += len(event.ids)
    (end,) = [event for event in events if isinstance(event, EngineEnd)]
    assert events[-1] is end
    return ids, "".join(event.text for event in tokens), end


@pytest.mark.parametrize(
    "said", ["hello", "two\nlines", "größer 🙂 世界", "user: nested", " assistant: x", "x" * 300]
)
async def test_the_last_message_comes_back_and_ends(said: str) -> None:
    engine = EchoEngine(tokens_per_event=7)
    ids, text, end = await run(engine, job_for(engine, said))
    assert text == said
    assert bytes(ids[:-1]).decode() == text
    assert ids[-1] == EOS_BYTE
    assert end == EngineEnd(Finish.EOS)


async def test_max_tokens_ends_an_answer_by_its_length() -> None:
    engine = EchoEngine()
    ids, text, end = await run(engine, job_for(engine, "hello", parameters={"max_tokens": 3}))
    assert (len(ids), text, end) == (3, "hel", EngineEnd(Finish.LENGTH))


async def test_endless_copies_fill_max_tokens() -> None:
    engine = EchoEngine(copies=0)
    ids, text, end = await run(engine, job_for(engine, "ab", parameters={"max_tokens": 5}))
    assert (len(ids), text, end) == (5, "ababa", EngineEnd(Finish.LENGTH))


async def test_a_stop_string_ends_the_ids_where_it_is_complete_and_trims_the_text() -> None:
    engine = EchoEngine()
    ids, text, end = await run(engine, job_for(engine, "one END two", parameters={"stop": ("END",)}))
    assert text == "one "
    assert bytes(ids) == b"one END"
    assert end == EngineEnd(Finish.STOP_STRING, "END")


@pytest.mark.parametrize("cut", range(17))
@pytest.mark.parametrize("stop", [(), ("🙂d",), ("zz",)])
async def test_a_resumed_answer_goes_on_as_the_unbroken_one(cut: int, stop: tuple[str, ...]) -> None:
    engine = EchoEngine(tokens_per_event=1)
    job = job_for(engine, "abc🙂def zz ghi", parameters={"stop": stop})
    ids, text, end = await run(engine, job)
    cut = min(cut, len(ids))
    delivered = ""
    async for event in engine.generate(job):
        if isinstance(event, EngineEnd) or event.position + len(event.ids) > cut:
            break
        delivered += event.text
    resumed = replace(
        job, resume_ids=tuple(ids[:cut]), first_position=cut, resume_text_bytes=len(delivered.encode())
    )
    more_ids, more_text, more_end = await run(engine, resumed)
    assert ids[:cut] + more_ids == ids
    assert delivered + more_text == text
    assert more_end == end


async def test_a_prompt_without_room_is_refused() -> None:
    engine = EchoEngine()
    job = replace(job_for(engine, "x"), prompt_ids=tuple([65] * CONTEXT_LENGTH))
    with pytest.raises(EngineRefused, match="no room") as caught:
        await run(engine, job)
    assert caught.value.code == "too_long"


async def test_ids_that_are_no_bytes_are_refused() -> None:
    engine = EchoEngine()
    for wrong in ({"prompt_ids": (257,)}, {"resume_ids": (300,), "first_position": 1}):
        with pytest.raises(EngineRefused, match="token id"):
            await run(engine, job_for(engine, "x", **wrong))


async def test_wanted_likelihoods_come_with_their_tokens() -> None:
    engine = EchoEngine()
    (event, _) = [event async for event in engine.generate(job_for(engine, "hi", top_logprobs=1))]
    assert isinstance(event, EngineTokens)
    assert [one.top[0][0] for one in event.logprobs] == list(event.ids)


async def test_more_jobs_than_slots_wait_and_a_closed_generator_frees_its_slot() -> None:
    engine = EchoEngine(slots=1, seconds_per_token=0.001, tokens_per_event=1)
    first = engine.generate(job_for(engine, "hello"))
    await anext(first)
    second = asyncio.create_task(run(engine, job_for(engine, "hello")))
    await asyncio.sleep(0.05)
    assert not second.done()
    await first.aclose()  # type: ignore[attr-defined]
    assert (await asyncio.wait_for(second, 5))[1] == "hello"


def test_the_manifest_is_canonical() -> None:
    assert decode_manifest(EchoEngine().manifest_bytes) == EchoEngine().manifest


def test_a_job_frame_that_contradicts_itself_is_refused() -> None:
    frame = Job(
        job_id=bytes(32),
        attempt=0,
        model_id=bytes(32),
        account="0x" + "00" * 20,
        prompt_ids=(1,),
        prompt_text="x",
        salt=bytes(32),
        parameters=Parameters(),
        job_seed=bytes(32),
        resume_ids=(1, 2),
        first_position=2,
        input_price=1,
        output_price=1,
        fee_bps=0,
    )
    assert EngineJob.from_frame(frame).resume_ids == (1, 2)
    with pytest.raises(EngineRefused, match="first_position"):
        EngineJob.from_frame(
            Job(**{name: getattr(frame, name) for name in frame.__struct_fields__} | {"first_position": 1})
        )
