import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provider.engines.base import EngineBroken, EngineEnd, EngineJob, EngineRefused, EngineTokens
from tallystick.models.chat import render_chat
from tallystick.models.manifest import decode_manifest
from tallystick.models.tokenizer import load_tokenizer
from tallystick.protocol.receipts import Finish

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from provider.engines.transformers_engine import TransformersEngine  # noqa: E402 — needs torch
from provider.engines.transformers_engine.runner import BatchRunner, SerialRunner  # noqa: E402

Builder = Callable[..., EngineJob]
Runner = Callable[..., Any]
PROMPTS = [tuple((7 * one + at) % 256 for at in range(3 + 5 * one)) for one in range(12)]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=["plain", "sliding"])
async def engine(
    request: pytest.FixtureRequest, tiny_models: dict[str, Path], cache_dir: Path
) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(
        str(tiny_models[request.param]), threads=1, slots=4, cache_dir=cache_dir, device="cpu"
    )
    await engine.start()
    yield engine
    await engine.close()


def greedy_reference(folder: Path, prompt: tuple[int, ...], tokens: int) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["plain", "sliding"])
async def test_greedy_tokens_are_the_models_own(
    kind: str, tiny_models: dict[str, Path], cache_dir: Path, job: Builder, run: Runner
) -> None:
    engine = TransformersEngine(str(tiny_models[kind]), threads=1, cache_dir=cache_dir, device="cpu")
    await engine.start()
    try:
        assert isinstance(engine._loop._runner, BatchRunner if kind == "plain" else SerialRunner)
        for prompt in PROMPTS[:4]:
            expected = greedy_reference(tiny_models[kind], prompt, 20)
            answer = await run(engine.generate(job(prompt, temperature=0, max_tokens=20)))
            assert answer.ids == expected[: len(answer.ids)]
            assert len(answer.ids) == 20 or answer.ids[-1] == 256
    finally:
        await engine.close()


async def test_jobs_that_come_and_go_get_what_each_gets_alone(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    jobs = [
        job(
            prompt,
            seed=at,
            temperature=(0, 700_000, 1_000_000)[at % 3],
            max_tokens=5 + 4 * at,
            presence_penalty=300_000 * (at % 2),
            top_p=900_000,
        )
        for at, prompt in enumerate(PROMPTS)
    ]
    alone = [await run(engine.generate(one)) for one in jobs]
    order = random.Random(5)

    async def later(one: EngineJob) -> Any:
        await asyncio.sleep(order.random() * 0.05)
        return await run(engine.generate(one))

    together = await asyncio.gather(*map(later, jobs))
    assert together == alone
    assert len({tuple(answer.ids) for answer in alone}) > 6


async def test_a_seed_repeats_its_answer_and_another_gives_another(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    first, again, other = [
        await run(engine.generate(job(PROMPTS[3], seed=seed, max_tokens=24))) for seed in (1, 1, 2)
    ]
    assert first == again
    assert first.ids != other.ids


@pytest.mark.parametrize("temperature", [0, 700_000])
async def test_a_resumed_job_goes_on_as_the_unbroken_one(
    engine: TransformersEngine, job: Builder, run: Runner, temperature: int
) -> None:
    whole = job(PROMPTS[4], temperature=temperature, max_tokens=20, frequency_penalty=400_000, seed=3)
    unbroken = await run(engine.generate(whole))
    events = [event async for event in engine.generate(whole) if isinstance(event, EngineTokens)]
    for cut in sorted({0, 1, 2, 7, 13, len(unbroken.ids) - 1, len(unbroken.ids)}):
        delivered = "".join(event.text for event in events[:cut])
        resumed = replace(
            whole,
            resume_ids=tuple(unbroken.ids[:cut]),
            first_position=cut,
            resume_text_bytes=len(delivered.encode()),
        )
        rest = await run(engine.generate(resumed))
        assert unbroken.ids[:cut] + rest.ids == unbroken.ids
        assert delivered + rest.text == unbroken.text
        assert rest.end == unbroken.end


async def test_the_text_is_what_the_tokenizer_makes_of_the_ids(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    blob = engine.blob(bytes.fromhex(engine.manifest.tokenizer))
    assert blob is not None
    tokenizer = load_tokenizer(engine.manifest.tokenizer, blob)
    for seed in range(4):
        answer = await run(engine.generate(job(PROMPTS[2], seed=seed, max_tokens=40)))
        assert answer.text == tokenizer.decode(answer.ids)


async def test_a_stop_string_ends_the_answer_and_is_not_in_its_text(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    free = await run(engine.generate(job(PROMPTS[5], seed=2, max_tokens=40)))
    stop = free.text[10:12]
    assert len(stop) == 2
    stopped = await run(engine.generate(job(PROMPTS[5], seed=2, max_tokens=40, stop=(stop,))))
    assert stopped.end == EngineEnd(Finish.STOP_STRING, stop)
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.ids == free.ids[: len(stopped.ids)]
    assert len(stopped.ids) < len(free.ids)


async def test_the_end_token_ends_the_answer_and_is_among_its_ids(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    answer = await run(engine.generate(job(PROMPTS[5], logit_bias=((256, 100_000_000),))))
    assert (answer.ids, answer.text, answer.end) == ([256], "", EngineEnd(Finish.EOS))


async def test_max_tokens_and_the_context_end_an_answer_by_its_length(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    no_end = {"logit_bias": ((256, -100_000_000),)}
    short = await run(engine.generate(job(PROMPTS[1], max_tokens=7, **no_end)))
    assert (len(short.ids), short.end) == (7, EngineEnd(Finish.LENGTH))
    full = await run(engine.generate(job(PROMPTS[1], max_tokens=1000, **no_end)))
    assert len(PROMPTS[1]) + len(full.ids) == engine.manifest.context_length
    assert full.end == EngineEnd(Finish.LENGTH)


async def test_a_job_that_cannot_run_is_refused(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    for prompt, code in (((1,) * 160, "too_long"), ((), "engine"), ((300,), "engine")):
        with pytest.raises(EngineRefused) as caught:
            await run(engine.generate(job(prompt)))
        assert caught.value.code == code


async def test_likelihoods_are_those_of_the_models_logits(
    engine: TransformersEngine, tiny_models: dict[str, Path], job: Builder, run: Runner
) -> None:
    answer = await run(engine.generate(job(PROMPTS[6], temperature=500_000, max_tokens=4, top_logprobs=3)))
    folder = tiny_models["plain" if isinstance(engine._loop._runner, BatchRunner) else "sliding"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPTS[6], *answer.ids]])).logits[0, len(PROMPTS[6]) - 1 : -1]
    expected = torch.log_softmax(logits.double(), dim=1)
    for at, (token_id, found) in enumerate(zip(answer.ids, answer.logprobs, strict=True)):
        assert found.logprob == pytest.approx(float(expected[at, token_id]), abs=1e-4)
        best = expected[at].topk(3)
        assert [one for one, _ in found.top] == best.indices.tolist()
        assert [value for _, value in found.top] == pytest.approx(best.values.tolist(), abs=1e-4)


async def test_a_job_whose_reader_leaves_is_dropped_and_its_slot_is_free(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    no_end = {"logit_bias": ((256, -100_000_000),), "max_tokens": 150}
    leaving = [engine.generate(job(PROMPTS[0], seed=seed, **no_end)) for seed in range(4)]
    for events in leaving:
        await anext(events)
    waiting = asyncio.create_task(run(engine.generate(job(PROMPTS[1], max_tokens=3))))
    for events in leaving:
        await events.aclose()
    assert (await asyncio.wait_for(waiting, 10)).end is not None
    for _ in range(100):
        if not engine._loop._running:
            break
        await asyncio.sleep(0.02)
    assert engine._loop._running == []


async def test_closing_the_engine_breaks_the_jobs_that_run(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    no_end = {"logit_bias": ((256, -100_000_000),), "max_tokens": 150}
    events = [engine.generate(job(PROMPTS[0], seed=seed, **no_end)) for seed in range(6)]
    await anext(events[0])
    tasks = [asyncio.create_task(run(one)) for one in events]
    await asyncio.sleep(0)
    await engine.close()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, EngineBroken)


async def test_a_failing_step_breaks_its_jobs_but_not_the_engine(
    engine: TransformersEngine, job: Builder, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine._loop._runner
    decode = runner.decode
    good = await run(engine.generate(job(PROMPTS[2], max_tokens=8)))

    def fails(ids: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(runner, "decode", fails)
    with pytest.raises(EngineBroken, match="out of memory"):
        await run(engine.generate(job(PROMPTS[2], max_tokens=8)))
    monkeypatch.setattr(runner, "decode", decode)
    assert await run(engine.generate(job(PROMPTS[2], max_tokens=8))) == good


async def test_a_resumption_inside_of_a_character_is_refused_and_breaks_no_other_job(
    engine: TransformersEngine, job: Builder, run: Runner
) -> None:
    long = {"logit_bias": ((256, -100_000_000),), "max_tokens": 40}
    alone = await run(engine.generate(job(PROMPTS[2], seed=1, **long)))
    beside = asyncio.create_task(run(engine.generate(job(PROMPTS[2], seed=1, **long))))
    # Of 🙂 in the tokens of this model, one byte each, only the first is said to be delivered.
    blob = engine.blob(bytes.fromhex(engine.manifest.tokenizer))
    ids = tuple(load_tokenizer(engine.manifest.tokenizer, blob or b"").encode("🙂"))
    wrong = job(PROMPTS[3], resume_ids=ids, first_position=len(ids), resume_text_bytes=1, **long)
    with pytest.raises(EngineRefused, match="character"):
        await run(engine.generate(wrong))
    forced = {"logit_bias": ((ids[3], 100_000_000),), "max_tokens": 8}
    late = job(PROMPTS[3], resume_ids=ids[:3], first_position=3, resume_text_bytes=1, **forced)
    with pytest.raises(EngineRefused, match="character"):
        await run(engine.generate(late))
    assert await beside == alone


async def test_logits_that_are_no_numbers_break_their_own_job_only(
    engine: TransformersEngine, job: Builder, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"logit_bias": ((256, -100_000_000),), "max_tokens": 60}
    alone = await run(engine.generate(job(PROMPTS[2], seed=1, **long)))
    runner = engine._loop._runner
    decode = runner.decode

    def breaks_the_second(ids: Any) -> Any:
        logits = decode(ids)
        if len(ids) == 2:
            logits[1] = torch.nan
        return logits

    monkeypatch.setattr(runner, "decode", breaks_the_second)
    first = asyncio.create_task(run(engine.generate(job(PROMPTS[2], seed=1, **long))))
    second = asyncio.create_task(run(engine.generate(job(PROMPTS[3], seed=2, **long))))
    assert await first == alone
    with pytest.raises(EngineBroken, match="no numbers"):
        await second


async def test_the_manifest_names_every_file_that_counts(
    engine: TransformersEngine, tiny_models: dict[str, Path], cache_dir: Path
) -> None:
    manifest = decode_manifest(engine.manifest_bytes)
    folder = next(folder for folder in tiny_models.values() if folder.name == manifest.name)
    assert dict(manifest.weights) == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    assert (manifest.eos_ids, manifest.context_length, manifest.numerics) == ((256,), 160, "fp32")
    assert render_chat(manifest, [{"role": "user", "content": "x"}]) == "<|start|>x"
    assert engine.blob(bytes(32)) is None
    half = TransformersEngine(str(folder), dtype="bfloat16", cache_dir=cache_dir, device="cpu", threads=1)
    await half.start()
    assert half.manifest.numerics == "bf16"
    await half.close()


async def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for model in (str(tmp_path), str(tmp_path / "missing"), "./nowhere"):
        with pytest.raises(EngineRefused):
            await TransformersEngine(model, cache_dir=tmp_path, device="cpu").start()
    with pytest.raises(EngineRefused, match="dtype"):
        await TransformersEngine(str(tmp_path), dtype="int3", cache_dir=tmp_path, device="cpu").start()
    with pytest.raises(EngineRefused, match="no device"):
        await TransformersEngine(str(tmp_path), cache_dir=tmp_path, device="tpu").start()
    with pytest.raises(EngineRefused):
        TransformersEngine("x", slots=0)
