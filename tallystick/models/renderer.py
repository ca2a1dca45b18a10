"""Prompts of models that strangers bring: their templates and tokenizers run in processes of their own.

Jinja's sandbox keeps a template away from the machine, but not from its time and memory; and a tokenizer's
regular expression can backtrack for years without letting go of the interpreter. So each such model has a
process for itself. The kernel ends it when it takes too much, and only that model's callers wait for it. A
model that was the end of its process, or out of line too often, rests for a while.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tallystick.models import confined
from tallystick.models.chat import (
    DEFAULT_TEMPLATE,
    BadMessages,
    BadTemplate,
    Prompt,
    PromptTooLong,
    render_chat,
)
from tallystick.models.child import Child, Gone
from tallystick.models.confined import Answer, Ask, Setup
from tallystick.models.manifest import BYTES_TOKENIZER, OPAQUE_TOKENIZER, Manifest
from tallystick.models.standing import Standing
from tallystick.models.tokenizer import BadTokenizer, ByteTokenizer

CPU_SECONDS: Final = 0.5
CPU_SECONDS_PER_CHARACTER: Final = 20e-6
"""Seven times what the worst text costs with a byte-level tokenizer (a million emoji: 3 µs each)."""
CHARACTERS_PER_MESSAGE: Final = 100
"""What a template may add to each message."""
USUAL_CPU_SECONDS: Final = 0.02
"""What any question may take; the CPU time beyond it and the characters' is out of line."""
LOAD_CPU_SECONDS: Final = 1.0
LOAD_CPU_SECONDS_PER_BYTE: Final = 0.3e-6
"""A tokenizer.json of 1.5 MB loads in 0.06 µs a byte."""
MEMORY_BYTES: Final = 512 * 1024**2
MEMORY_PER_BYTE: Final = 16
"""Of the tokenizer.json, on top."""
PROCESSES: Final = 8


class Renderer:
    """Runs strangers' models, each in a process that starts with the first question to it.

    At most `processes` are there at a time: the one that was idle for longest makes room.
    """

    def __init__(self, processes: int = PROCESSES) -> None:
        self._most = processes
        self._answering = asyncio.Semaphore(processes)
        self._open: dict[Prompter, None] = {}

    def of(self, manifest: Manifest, tokenizer_file: Path | None = None) -> "Prompter":
        """Return what makes the prompts of a model; nothing starts yet."""
        return Prompter(self, manifest, tokenizer_file)

    def close(self) -> None:
        """End all processes."""
        for prompter in list(self._open):
            if (child := self.leave(prompter)) is not None:
                child.end()

    @contextlib.asynccontextmanager
    async def place(self, prompter: "Prompter") -> AsyncIterator[None]:
        """Give room for the process of `prompter`, which then stays until its room is needed."""
        async with self._answering:
            self._open.pop(prompter, None)
            self._open[prompter] = None
            idle = [other for other in self._open if not other.is_busy]
            for other in idle[: max(0, len(self._open) - self._most)]:
                await _end(self.leave(other))
            yield

    def leave(self, prompter: "Prompter") -> Child | None:
        """Return the process of `prompter`, if it has one, for its end."""
        self._open.pop(prompter, None)
        return prompter.give_up()


class Prompter:
    """Makes the prompts of one model. Its callers wait for each other, but not for other models'."""

    def __init__(self, renderer: Renderer, manifest: Manifest, tokenizer_file: Path | None) -> None:
        self._renderer = renderer
        self._manifest = manifest
        self._file = tokenizer_file
        self._is_ours = manifest.chat_template in ("", DEFAULT_TEMPLATE) and tokenizer_file is None
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._standing = Standing()

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._turn.locked()

    async def chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> Prompt:
        """Return the prompt for `messages`.

        Raises BadMessages, BadTemplate, BadTokenizer (the last two also for a model that takes too much time
        or memory), PromptTooLong.
        """
        if self._is_ours:
            text = render_chat(self._manifest, messages, add_generation_prompt)
            return Prompt(text, self._own_ids(text))
        characters = sum(map(_characters, messages))
        copies = [dict(message) for message in messages]
        answer = await self._ask(Ask(copies, "", add_generation_prompt, _cpu_seconds(characters)))
        return Prompt(answer.text, answer.ids)

    async def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of `text`, none where the engine shows none. Raises BadTokenizer, PromptTooLong."""
        if self._file is None:
            return self._own_ids(text)
        return (await self._ask(Ask(None, text, False, _cpu_seconds(len(text))))).ids

    async def try_out(self) -> None:
        """Find out whether the tokenizer loads and works, within its limits. Raises BadTokenizer."""
        with contextlib.suppress(PromptTooLong):
            await self.encode("The quick brown fox, 12345 times.\n\n  été 世界 🙂" + " " * 64 + "a" * 64)

    async def close(self) -> None:
        """End the process."""
        await _end(self._renderer.leave(self))

    def give_up(self) -> Child | None:
        """Return the process, which is the caller's to end; the next question starts another."""
        child, self._child = self._child, None
        return child

    def _own_ids(self, text: str) -> tuple[int, ...]:
        if self._manifest.tokenizer == OPAQUE_TOKENIZER:
            return ()
        assert self._manifest.tokenizer == BYTES_TOKENIZER
        return tuple(ByteTokenizer().encode(text))

    async def _ask(self, ask: Ask) -> Answer:
        async with self._turn:
            if self._standing.is_resting(time.monotonic()):
                raise self._too_much(ask)
            async with self._renderer.place(self):
                answer = await self._answered(ask)
            usual = ask.cpu_seconds - CPU_SECONDS + USUAL_CPU_SECONDS
            self._standing.spent(answer.cpu_seconds - usual, time.monotonic())
        match answer.kind:
            case confined.PROMPT:
                return answer
            case confined.MESSAGES:
                raise BadMessages(answer.text)
            case confined.TEMPLATE:
                raise BadTemplate(answer.text)
            case confined.LONG:
                raise PromptTooLong(int(answer.text))
            case _:
                raise BadTokenizer(answer.text)

    async def _answered(self, ask: Ask) -> Answer:
        try:
            # What has no CPU time to blame it may have been ended from outside, or by what went before.
            for _ in range(2):
                try:
                    return await (self._child or await self._started()).ask(ask)
                except Gone as gone:
                    await _end(self._renderer.leave(self))
                    if gone.is_its_own_fault:
                        break
        except BaseException:  # an answer that nobody waits for any more must not be the next one's
            await asyncio.shield(_end(self._renderer.leave(self)))
            raise
        self._standing.rest(time.monotonic())
        raise self._too_much(ask)

    async def _started(self) -> Child:
        size = 0 if self._file is None else self._file.stat().st_size
        child = self._child = Child()
        usual = LOAD_CPU_SECONDS + size * LOAD_CPU_SECONDS_PER_BYTE
        file = "" if self._file is None else str(self._file)
        answer = await child.ask(Setup(self._manifest, file, usual, MEMORY_BYTES + size * MEMORY_PER_BYTE))
        if answer.kind != confined.PROMPT:
            self._standing.rest(time.monotonic())
            raise BadTokenizer(answer.text)
        return child

    def _too_much(self, ask: Ask) -> BadTemplate | BadTokenizer:
        if ask.messages is None or not self._manifest.chat_template:
            return BadTokenizer("the model's tokenizer takes too much time or memory")
        parts = "chat template" if self._file is None else "chat template or tokenizer"
        return BadTemplate(f"the model's {parts} takes too much time or memory")


async def _end(child: Child | None) -> None:
    # In a thread: the kernel takes a moment to give back much memory.
    if child is not None:
        await asyncio.to_thread(child.end)


def _cpu_seconds(characters: int) -> float:
    return CPU_SECONDS + characters * CPU_SECONDS_PER_CHARACTER


def _characters(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    return CHARACTERS_PER_MESSAGE + (len(content) if isinstance(content, str) else 0)
