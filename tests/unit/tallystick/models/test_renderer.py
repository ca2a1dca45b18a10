"""Strangers' templates and tokenizers cannot take the coordinator's time or memory, nor each other's."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.models.chat import BadMessages, BadTemplate, PromptTooLong, render_chat
from tallystick.models.manifest import Manifest
from tallystick.models.renderer import Prompter, Renderer
from tallystick.models.tokenizer import BadTokenizer, load_tokenizer
from tests.unit.tallystick.models.test_chat import HELLO, SMOL, with_template
from tests.unit.tallystick.models.tokenizers_for_tests import byte_fallback_blob, byte_level_blob

SLOW_PATTERN = {"type": "Replace", "pattern": {"Regex": "(?:a|aa)+$"}, "content": ""}
SLOW_TEXT = ("a" * 30 + "b") * 100
"""Each word takes the pattern some hundred thousand steps, too few for the library to give up."""


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


def with_tokenizer(blob: bytes, template: str = "", context_length: int = 2**20) -> Manifest:
    kind = hashlib.sha256(blob).hexdigest()
    return msgspec.structs.replace(with_template(template), tokenizer=kind, context_length=context_length)


def changed(blob: bytes, **parts: Any) -> bytes:
    return json.dumps({**json.loads(blob), **parts}).encode()


def a_model(renderer: Renderer, folder: Path, blob: bytes, **options: Any) -> Prompter:
    manifest = with_tokenizer(blob, **options)
    (folder / manifest.tokenizer).write_bytes(blob)
    return renderer.of(manifest, folder / manifest.tokenizer)


def pid_of(prompter: Prompter) -> int:
    assert prompter._child is not None
    return prompter._child.pid


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_prompts_are_those_of_the_same_template_at_home(renderer: Renderer) -> None:
    for manifest in (with_template(SMOL), with_template("")):
        prompter = renderer.of(manifest)
        for messages in (HELLO, [*HELLO, {"role": "assistant", "content": "é" * 100_000}, *HELLO]):
            assert await prompter.chat(messages) == (render_chat(manifest, messages), ())


async def test_a_prompt_comes_with_its_ids(renderer: Renderer, tmp_path: Path) -> None:
    blob = byte_level_blob()
    manifest = with_tokenizer(blob, SMOL)
    prompt = await a_model(renderer, tmp_path, blob, template=SMOL).chat(HELLO)
    assert prompt.text == render_chat(manifest, HELLO)
    assert list(prompt.ids) == load_tokenizer(manifest.tokenizer, blob).encode(prompt.text)


async def test_bytes_are_ids_with_a_template_and_without(renderer: Renderer) -> None:
    for template in (SMOL, ""):
        manifest = msgspec.structs.replace(
            with_template(template), tokenizer="bytes/v1", context_length=10_000
        )
        prompt = await renderer.of(manifest).chat(HELLO)
        assert bytes(prompt.ids).decode() == prompt.text == render_chat(manifest, HELLO)
        assert await renderer.of(manifest).encode("é") == (0xC3, 0xA9)


@pytest.mark.parametrize("blob", [byte_level_blob(), byte_fallback_blob()], ids=["byte-level", "fallback"])
def test_ids_are_those_of_the_same_tokenizer_at_home(tmp_path: Path, blob: bytes) -> None:
    at_home = load_tokenizer(hashlib.sha256(blob).hexdigest(), blob)
    with asyncio.Runner() as runner:

        async def begin() -> Prompter:
            return a_model(Renderer(), tmp_path, blob)

        prompter = runner.run(begin())

        @settings(max_examples=150, deadline=None)
        @given(st.text(max_size=200) | st.text("the aé\n<|>1", max_size=500))
        def same(text: str) -> None:
            assert list(runner.run(prompter.encode(text))) == at_home.encode(text)

        same()
        runner.run(prompter.close())


async def test_it_is_said_whose_fault_it_is(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(BadMessages, match="system first"):
        await renderer.of(with_template("{{ raise_exception('system first') }}")).chat(HELLO)
    with pytest.raises(BadMessages, match="needs a role"):
        await renderer.of(with_template(SMOL)).chat([{"role": "user"}])
    with pytest.raises(BadTemplate, match="does not compile"):
        await renderer.of(with_template("{% for %}")).chat(HELLO)
    panics = changed(byte_level_blob(), normalizer={**SLOW_PATTERN, "pattern": {"Regex": "(a|aa)+$"}})
    with pytest.raises(BadTokenizer, match="breaks on this input"):
        await a_model(renderer, tmp_path, panics).encode("a" * 4000 + "b")
    with pytest.raises(BadTokenizer, match="not a tokenizer"):
        await a_model(renderer, tmp_path, b"{}").encode("a")


async def test_a_prompt_longer_than_the_context_is_only_counted(renderer: Renderer, tmp_path: Path) -> None:
    prompter = a_model(renderer, tmp_path, byte_level_blob(), context_length=7)
    assert len(await prompter.encode("zxzxzxz")) == 7
    with pytest.raises(PromptTooLong, match="8 tokens"):
        await prompter.encode("zxzxzxzx")


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3,
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set x = '%50000000000d' % 1 %}",
        "{% set x = '{:>50000000000}'.format(1) %}",
        "{% set x = 'a'.ljust(50000000000) %}",
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 40 + "{{ a | string | length }}",
        "{% set x %}aaaaaaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    ],
)
async def test_a_template_that_runs_riot_ends_alone(renderer: Renderer, template: str) -> None:
    with pytest.raises(BadTemplate):
        await renderer.of(with_template(template)).chat(HELLO)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"normalizer": SLOW_PATTERN}, SLOW_TEXT),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": SLOW_PATTERN["pattern"],
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            SLOW_TEXT,
        ),
        (
            {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 2**20}},
            "a" * 10_000,
        ),
    ],
    ids=["normalizer", "pre-tokenizer", "memory"],
)
async def test_a_tokenizer_that_runs_riot_ends_alone_and_rests(
    renderer: Renderer, tmp_path: Path, parts: dict[str, Any], text: str
) -> None:
    riot = a_model(renderer, tmp_path, changed(byte_level_blob(), **parts), template=SMOL)
    fair = a_model(renderer, tmp_path, byte_level_blob())
    ids = await fair.encode("the tally stick")
    pid = pid_of(fair)
    with pytest.raises(BadTokenizer, match="too much time or memory"):
        await riot.encode(text)
    with pytest.raises(BadTemplate, match="too much time or memory"):
        await riot.chat(HELLO)
    assert riot._child is None
    assert await fair.encode("the tally stick") == ids
    assert pid_of(fair) == pid


async def test_a_model_that_is_slow_again_and_again_rests(renderer: Renderer) -> None:
    slow = renderer.of(
        with_template("{% for a in range(9999) %}" + "{% set b = a * a %}" * 60 + "{% endfor %}")
    )
    with contextlib.suppress(BadTemplate):
        for _ in range(1000):
            await slow.chat(HELLO)
    assert slow._standing.is_resting(time.monotonic())


async def test_a_model_that_does_not_answer_holds_up_nobody(renderer: Renderer, tmp_path: Path) -> None:
    stuck = a_model(renderer, tmp_path, byte_level_blob(), template=SMOL)
    fair = a_model(renderer, tmp_path, byte_level_blob())
    await stuck.encode("a")
    os.kill(pid_of(stuck), signal.SIGSTOP)
    waiting = [asyncio.create_task(stuck.chat(HELLO)) for _ in range(50)]
    for _ in range(20):
        assert await fair.encode("a")
    assert not any(task.done() for task in waiting)
    os.kill(pid_of(stuck), signal.SIGCONT)
    assert len(set(await asyncio.gather(*waiting))) == 1


async def test_an_answer_that_nobody_waits_for_is_not_the_next_ones(
    renderer: Renderer, tmp_path: Path
) -> None:
    prompter = a_model(renderer, tmp_path, byte_level_blob())
    a, b = await prompter.encode("a"), await prompter.encode("b")
    os.kill(pid_of(prompter), signal.SIGSTOP)
    left = asyncio.create_task(prompter.encode("a"))
    await asyncio.sleep(0.01)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await prompter.encode("b") == b != a


async def test_a_process_that_was_killed_from_outside_is_replaced(renderer: Renderer) -> None:
    prompter = renderer.of(with_template(SMOL))
    before = await prompter.chat(HELLO)
    os.kill(pid_of(prompter), signal.SIGKILL)
    assert await prompter.chat(HELLO) == before


async def test_the_longest_idle_process_makes_room(tmp_path: Path) -> None:
    renderer = Renderer(processes=2)
    models = [renderer.of(replace_name(with_template(SMOL), f"m{number}")) for number in range(3)]
    for _ in range(2):
        assert len({prompt async for prompt in _prompts(models)}) == 1
    await models[1].chat(HELLO)
    await models[0].chat(HELLO)
    assert [model._child is not None for model in models] == [True, True, False]
    answers = await asyncio.gather(*[model.chat(HELLO) for model in models * 4])
    assert len(set(answers)) == 1
    assert sum(model._child is not None for model in models) == 2
    renderer.close()
    assert not any(model._child for model in models)


async def _prompts(models: list[Prompter]) -> AsyncIterator[Any]:
    for model in models:
        yield await model.chat(HELLO)


def replace_name(manifest: Manifest, name: str) -> Manifest:
    return msgspec.structs.replace(manifest, name=name)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads the environment from /proc")
async def test_a_strangers_process_knows_no_secrets(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_KEY", "s3cret")
    prompter = renderer.of(with_template(SMOL))
    await prompter.chat(HELLO)
    assert b"s3cret" not in environment_of(pid_of(prompter))
