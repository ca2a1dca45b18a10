import hashlib
import importlib.util
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from provider.engines.base import (
    EngineBroken,
    EngineEnd,
    EngineJob,
    EngineRefused,
    EngineTokens,
    EngineUnavailable,
)
from provider.engines.openai_engine import OpenAIEngine, _opaque_finish
from provider.engines.openai_wire import Piece
from tallystick.models.chat import render_chat
from tallystick.models.manifest import decode_manifest
from tallystick.protocol.receipts import Finish

Builder = Callable[..., EngineJob]
Runner = Callable[..., Any]
SAID = "größer 🙂 END and more"


def _server_module() -> Any:
    spec = importlib.util.spec_from_file_location(
        "openai_server", Path(__file__).with_name("openai_server.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SERVER = _server_module()


@pytest.fixture
async def echo() -> AsyncIterator[Any]:
    server = SERVER.EchoServer(SAID)
    async with TestServer(server.app()) as running:
        server.url = str(running.make_url("/v1"))
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(SERVER.tokenizer_json())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "eos_token": {"content": "<|end|>"},
                "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}",
            }
        )
    )
    return tmp_path


@pytest.fixture(params=["opaque", "ids"])
async def engine(request: pytest.FixtureRequest, echo: Any, folder: Path) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(echo.url, "echo", tokenizer=folder if request.param == "ids" else None)
    await engine.start()
    yield engine
    await engine.close()


def prompt(engine: OpenAIEngine, job: Builder, **overrides: Any) -> EngineJob:
    text = render_chat(engine.manifest, [{"role": "user", "content": "hi"}])
    ids = tuple(engine._tokenizer.encode(text)) if engine._tokenizer else ()
    return job(ids, prompt_text=text, **overrides)


def shows_ids(engine: OpenAIEngine) -> bool:
    return engine.manifest.tokenizer != ""


async def test_an_answer_comes_through(engine: OpenAIEngine, echo: Any, job: Builder, run: Runner) -> None:
    answer = await run(engine.generate(prompt(engine, job, temperature=700_000, top_p=900_000, top_k=40)))
    assert answer.end.finish is Finish.EOS
    path, body = echo.seen[-1]
    assert (body["temperature"], body["top_p"], body["top_k"], body["stream"]) == (0.7, 0.9, 40, True)
    assert answer.text == SAID
    if shows_ids(engine):
        assert answer.ids == [*engine._tokenizer.encode(SAID), SERVER.EOS]
        assert path == "/v1/completions"
        assert body["prompt"][-1] == SERVER.EOS
    else:
        assert answer.ids == []
        assert path == "/v1/chat/completions"
        assert body["messages"] == [{"role": "user", "content": "hi"}]
        assert (answer.end.prompt_tokens, answer.end.output_tokens) == (2, len(SAID.encode()) + 1)


async def test_a_bare_prompt_is_a_completion(echo: Any, job: Builder, run: Runner) -> None:
    engine = OpenAIEngine(echo.url, "echo")
    await engine.start()
    for text in ("Once upon a time", "[1, 2]", "[not json", "[" * 100_000):
        await run(engine.generate(job((), prompt_text=text)))
        assert echo.seen[-1][0] == "/v1/completions"
        assert echo.seen[-1][1]["prompt"] == text
    await engine.close()


async def test_the_length_ends_an_answer(engine: OpenAIEngine, job: Builder, run: Runner) -> None:
    answer = await run(engine.generate(prompt(engine, job, max_tokens=4)))
    assert answer.end.finish is Finish.LENGTH
    assert len(answer.ids) == (4 if shows_ids(engine) else 0)
    assert answer.end.output_tokens == (None if shows_ids(engine) else 4)


async def test_a_stop_string_is_found_in_the_ids_or_left_to_the_server(
    engine: OpenAIEngine, echo: Any, job: Builder, run: Runner
) -> None:
    answer = await run(engine.generate(prompt(engine, job, stop=("END",))))
    if shows_ids(engine):
        assert (answer.text, answer.end) == ("größer 🙂 ", EngineEnd(Finish.STOP_STRING, "END"))
        assert engine._tokenizer.decode(answer.ids) == "größer 🙂 END"
        assert "stop" not in echo.seen[-1][1]
    else:
        assert echo.seen[-1][1]["stop"] == ["END"]


@pytest.mark.parametrize(("named", "stop"), [("END", "END"), ("x" * 257, "")])
def test_a_server_names_a_stop_string_unless_it_is_too_long_for_one(named: str, stop: str) -> None:
    finish = Finish.STOP_STRING if stop else Finish.EOS
    assert _opaque_finish(Piece(finish="stop", stop=named)) == (finish, stop)


async def test_an_answer_in_ids_can_be_resumed(echo: Any, folder: Path, job: Builder, run: Runner) -> None:
    engine = OpenAIEngine(echo.url, "echo", tokenizer=folder)
    await engine.start()
    whole = prompt(engine, job)
    unbroken = await run(engine.generate(whole))
    for cut in (0, 1, 3, 10, len(unbroken.ids)):
        delivered = engine._tokenizer.stream(unbroken.ids[:cut]).resumed
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
    await engine.close()


async def test_likelihoods_come_with_the_ids(echo: Any, folder: Path, job: Builder, run: Runner) -> None:
    engine = OpenAIEngine(echo.url, "echo", tokenizer=folder)
    await engine.start()
    answer = await run(engine.generate(prompt(engine, job, top_logprobs=1)))
    assert [one.top for one in answer.logprobs] == [((token_id, -0.5),) for token_id in answer.ids]
    await engine.close()


@pytest.mark.parametrize(
    ("behaviour", "error", "code"),
    [
        ("too long", EngineRefused, "too_long"),
        ("busy", EngineUnavailable, "engine"),
        ("broken", EngineBroken, "engine"),
        ("cut", EngineBroken, "engine"),
        ("error", EngineBroken, "engine"),
        ("nonsense", EngineBroken, "engine"),
        ("nested", EngineBroken, "engine"),
        ("long", EngineBroken, "engine"),
        ("refused", EngineRefused, "request"),
        ("gone", EngineRefused, "engine"),
        ("elsewhere", EngineRefused, "engine"),
    ],
)
async def test_a_misbehaving_server_fails_the_job_and_not_the_engine(
    engine: OpenAIEngine,
    echo: Any,
    job: Builder,
    run: Runner,
    behaviour: str,
    error: type[Exception],
    code: str,
) -> None:
    echo.behaviour = behaviour
    with pytest.raises(error) as caught:
        await run(engine.generate(prompt(engine, job)))
    assert caught.value.code == code
    assert "/v1/elsewhere" not in [path for path, _ in echo.seen]
    echo.behaviour = "good"
    assert (await run(engine.generate(prompt(engine, job)))).end.finish is Finish.EOS


async def test_a_server_that_does_not_stop_is_stopped(echo: Any, job: Builder, run: Runner) -> None:
    engine = OpenAIEngine(echo.url, "echo")
    await engine.start()
    echo.behaviour = "endless"
    with pytest.raises(EngineBroken, match="does not stop"):
        await run(engine.generate(job((), prompt_text="go on", max_tokens=8)))
    await engine.close()


@pytest.mark.parametrize("behaviour", ["elsewhere", "no list", "odd list", "deep list", "long list"])
async def test_a_server_whose_list_of_models_is_none_is_not_started_with(echo: Any, behaviour: str) -> None:
    echo.behaviour = behaviour
    with pytest.raises((EngineRefused, EngineBroken), match=r"redirects|does not list|bytes"):
        await OpenAIEngine(echo.url, "echo").start()
    assert echo.seen == []


async def test_a_server_without_ids_cannot_pretend_to_show_them(
    echo: Any, folder: Path, job: Builder, run: Runner
) -> None:
    engine = OpenAIEngine(echo.url, "echo", tokenizer=folder)
    await engine.start()
    echo.shows_ids = False
    with pytest.raises(EngineBroken, match="token ids"):
        await run(engine.generate(prompt(engine, job)))
    await engine.close()


async def test_an_opaque_answer_is_not_resumed(echo: Any, job: Builder, run: Runner) -> None:
    engine = OpenAIEngine(echo.url, "echo")
    await engine.start()
    with pytest.raises(EngineRefused, match="resume"):
        await run(engine.generate(prompt(engine, job, resume_text_bytes=3)))
    await engine.close()


async def test_a_reader_that_leaves_frees_the_slot(
    echo: Any, folder: Path, job: Builder, run: Runner
) -> None:
    echo.said = "x" * 300
    engine = OpenAIEngine(echo.url, "echo", tokenizer=folder, slots=1)
    await engine.start()
    events = engine.generate(prompt(engine, job))
    assert isinstance(await anext(events), EngineTokens)
    await events.aclose()
    assert (await run(engine.generate(prompt(engine, job, max_tokens=3)))).text == "xxx"
    await engine.close()


async def test_the_manifest_says_what_is_known(echo: Any, folder: Path) -> None:
    shown, opaque = (
        OpenAIEngine(echo.url, "echo", tokenizer=folder),
        OpenAIEngine(echo.url, "bare", context_length=9),
    )
    await shown.start()
    await opaque.start()
    blob = (folder / "tokenizer.json").read_bytes()
    manifest = decode_manifest(shown.manifest_bytes)
    assert manifest.tokenizer == hashlib.sha256(blob).hexdigest()
    assert shown.blob(hashlib.sha256(blob).digest()) == blob
    assert (manifest.eos_ids, manifest.context_length, manifest.numerics) == ((256,), 400, "opaque")
    manifest = decode_manifest(opaque.manifest_bytes)
    assert (manifest.tokenizer, manifest.context_length) == ("", 9)
    assert opaque.blob(hashlib.sha256(blob).digest()) is None
    await shown.close()
    await opaque.close()


async def test_a_wrong_configuration_is_refused(echo: Any, tmp_path: Path) -> None:
    for model, said in (("other", "it serves: echo, bare"), ("bare", "context_length")):
        with pytest.raises(EngineRefused, match=said):
            await OpenAIEngine(echo.url, model).start()
    with pytest.raises(EngineRefused, match="no tokenizer folder"):
        OpenAIEngine(echo.url, "echo", tokenizer=tmp_path)
    with pytest.raises(EngineUnavailable, match="does not answer"):
        await OpenAIEngine("http://127.0.0.1:9/v1", "echo").start()


async def test_a_server_without_ids_is_found_out_at_the_start(echo: Any, folder: Path) -> None:
    echo.shows_ids = False
    with pytest.raises(EngineRefused, match="leave the tokenizer out"):
        await OpenAIEngine(echo.url, "echo", tokenizer=folder).start()


async def test_the_key_is_in_a_variable_or_a_file(
    echo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo.key = "sesame"
    monkeypatch.setenv("SERVER_KEY", "sesame")
    (tmp_path / "key").write_text("sesame\n")
    for where in ({"api_key_env": "SERVER_KEY"}, {"api_key_file": tmp_path / "key"}, {"api_key": "sesame"}):
        engine = OpenAIEngine(echo.url, "echo", **where)
        await engine.start()
        await engine.close()
    with pytest.raises(EngineRefused, match="401"):
        await OpenAIEngine(echo.url, "echo").start()
    with pytest.raises(EngineRefused, match="OTHER_KEY, which should"):
        OpenAIEngine(echo.url, "echo", api_key_env="OTHER_KEY")
    with pytest.raises(EngineRefused, match="no API key in"):
        OpenAIEngine(echo.url, "echo", api_key_file=tmp_path / "nothing")
