"""The thread that makes the tokens: jobs join and leave between any two steps.

    waiting ──▶ reading (its prompt, a chunk at a time) ──▶ running (a row of the batch) ──▶ told
       └──────────────────────── cancelled, refused, broken ────────────────────────────────▶ told

Each round reads at most `read_ahead` prompt tokens, then makes one token for every row, so that a long prompt
does not hold up the answers that run, nor do they hold up its first token.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from provider.engines.base import EngineBroken, EngineEnd, EngineError
from provider.engines.transformers_engine.runner import Runner
from provider.engines.transformers_engine.running import RunningJob
from tallystick.protocol.sampler.fast import sample_batch
from tallystick.protocol.sampler.reference import BadLogits

logger = logging.getLogger(__name__)


class StepLoop:
    """Owns the runner. `submit`, `wake` and `close` may be called from any thread."""

    def __init__(
        self, runner: Runner, *, slots: int, read_ahead: int, threads: int | None, flush: Callable[[], None]
    ) -> None:
        self._runner = runner
        self._slots = slots
        self._read_ahead = read_ahead
        self._threads = threads
        self._flush = flush
        self._waiting: deque[RunningJob] = deque()
        self._reading: deque[tuple[RunningJob, Cache | None]] = deque()
        self._running: list[RunningJob] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: RunningJob) -> None:
        """Queue a job, first come first served. Raises EngineBroken once the loop has ended."""
        with self._changed:
            if self._is_closing:
                raise EngineBroken("engine", "the engine has stopped")
            self._waiting.append(job)
            self._changed.notify()

    def wake(self) -> None:
        """Look at the jobs again: one was cancelled."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End every job with EngineBroken, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while self._await_work():
                    self._round()
        finally:
            with self._changed:
                self._is_closing = True
            self._fail_all(EngineBroken("engine", "the engine has stopped"))

    def _await_work(self) -> bool:
        with self._changed:
            while not (self._is_closing or self._waiting or self._reading or self._running):
                self._changed.wait()
            while self._waiting and len(self._running) + len(self._reading) < self._slots:
                self._reading.append((self._waiting.popleft(), None))
            return not self._is_closing

    def _round(self) -> None:
        self._drop_cancelled()
        self._read()
        if self._running:
            self._step()
        self._flush()

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.is_cancelled)
        self._reading = deque(pair for pair in self._reading if not pair[0].is_cancelled)
        self._leave([row for row, job in enumerate(self._running) if job.is_cancelled])

    def _read(self) -> None:
        """Read about `read_ahead` prompt tokens; a prompt read to its end gets its first token."""
        budget = self._read_ahead
        while self._reading and budget > 0:
            job, cache = self._reading.popleft()
            try:
                budget -= self._read_chunk(job, cache, budget)
            except EngineError as error:
                job.tell(error)
            except Exception as error:  # one job's failure must not end the loop that the others run in
                logger.exception("a prompt of %d tokens failed", len(job.job.prompt_ids))
                job.tell(EngineBroken("engine", f"reading the prompt failed: {error}"))

    def _read_chunk(self, job: RunningJob, cache: Cache | None, budget: int) -> int:
        if cache is None and (end := job.finish_before_start()) is not None:
            job.tell(end)
            return 0
        # Chunks end at the same positions whatever else is read, so that a prompt's numbers are its own.
        chunk = job.unread[: self._read_ahead]
        cache, logits = self._runner.prefill(chunk, cache)
        del job.unread[: len(chunk)]
        if job.unread:
            self._reading.appendleft((job, cache))
        else:
            self._join(job, cache, logits)
        return len(chunk)

    def _join(self, job: RunningJob, cache: Cache, logits: Tensor) -> None:
        (token_id,) = sample_batch(logits[None], [job.sampler]).tolist()
        end = job.accept(token_id, logits)
        self._flush()
        if end is not None:
            job.tell(end)
            return
        self._runner.admit(cache)
        self._running.append(job)

    def _step(self) -> None:
        try:
            logits = self._runner.decode([job.last_id for job in self._running])
            ended = self._accept(logits)
        except Exception as error:  # the jobs of this batch are lost, those that come later need not be
            logger.exception("a step of %d rows failed", len(self._running))
            for job in self._running:
                job.tell(EngineBroken("engine", f"a step failed: {error}"))
            ended = list(range(len(self._running)))
        self._leave(ended)

    def _accept(self, logits: Tensor) -> list[int]:
        """Draw and tell every row's token; return the rows that have ended."""
        broken, ids = _drawn(logits, self._running)
        ended = []
        for row, job in enumerate(self._running):
            if row in broken:
                job.tell(EngineBroken("engine", "the model gave logits that are no numbers"))
                ended.append(row)
                continue
            end: EngineEnd | EngineError | None
            try:
                end = job.accept(ids[row], logits[row])
            except EngineError as error:
                end = error
            if end is not None:
                job.tell(end)
                ended.append(row)
        return ended

    def _leave(self, rows: Sequence[int]) -> None:
        # From the last to the first: what takes a leaver's place is never a leaver itself.
        for row in sorted(rows, reverse=True):
            self._runner.drop(row)
            last = self._running.pop()
            if row < len(self._running):
                self._running[row] = last

    def _fail_all(self, error: EngineBroken) -> None:
        with self._changed:
            jobs = [*self._running, *(job for job, _ in self._reading), *self._waiting]
            self._running, self._reading, self._waiting = [], deque(), deque()
        for job in jobs:
            job.tell(error)
        self._flush()


def _drawn(logits: Tensor, jobs: Sequence[RunningJob]) -> tuple[frozenset[int], list[int]]:
    """Return the rows without sound logits, and every row's token (0 for those)."""
    states = [job.sampler for job in jobs]
    try:
        return frozenset(), sample_batch(logits, states).tolist()
    except BadLogits as error:
        broken = frozenset(error.rows)
        sound = [row for row in range(len(jobs)) if row not in broken]
        ids = [0] * len(jobs)
        if sound:
            drawn = sample_batch(logits[sound], [states[row] for row in sound]).tolist()
            for row, token_id in zip(sound, drawn, strict=True):
                ids[row] = token_id
        return broken, ids
