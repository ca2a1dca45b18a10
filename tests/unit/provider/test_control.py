"""The running agent's ear: status, terms, drain; one agent per home."""

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provider.agent import Agent
from provider.commands.steering import control, control_start
from provider.config import load_config, save_config
from provider.control import NotRunning, ask, listen, socket_path
from tallystick.protocol.frames import Heartbeat
from tests.support.agents import Line, a_config, an_agent, idle, running, scripted_coordinator
from tests.support.hubs import eventually


@pytest.fixture
async def agent(tmp_path: Path):  # type: ignore[no-untyped-def]
    """An agent that listens to its owner."""
    agent = an_agent(a_config(), tmp_path)
    save_config(tmp_path, agent.config)
    async with listen(tmp_path, lambda request: control(agent, tmp_path, request)):
        yield agent
    agent.evidence.close()


async def test_status_says_what_is_served_and_at_which_price(agent: Agent, tmp_path: Path) -> None:
    told = await ask(tmp_path, {"do": "status"})
    assert (told["running"], told["connected"], told["draining"], told["jobs_running"]) == (
        True,
        False,
        False,
        0,
    )
    assert told["models"] == [
        {
            "name": "echo",
            "engine": "echo",
            "prices": "$0.30 in, $0.30 out per million tokens",
            "slots": 4,
            "paused": False,
        }
    ]


async def test_status_says_what_the_coordinator_had_to_say(tmp_path: Path) -> None:
    async def says(line: Line) -> None:
        await line.send(Heartbeat(at_ms=0, notice="'echo' is not served here: the catalog is full"))
        await idle(line)

    async with scripted_coordinator(says) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: bool(agent.notices), 30)
            told = control(agent, tmp_path, {"do": "status"})
    assert told["notices"] == ["'echo' is not served here: the catalog is full"]


async def test_terms_change_at_once_and_for_the_next_start(agent: Agent, tmp_path: Path) -> None:
    told = await ask(tmp_path, {"do": "terms", "model": "echo", "input_price": "0.25", "paused": True})
    assert (told["models"][0]["prices"], told["models"][0]["paused"]) == (
        "$0.25 in, $0.30 out per million tokens",
        True,
    )
    (model,) = agent.models.values()
    assert (model.offer().input_price, model.offer().output_price, model.offer().paused) == (250, 300, True)
    (stored,) = load_config(tmp_path).models
    assert (stored.input_price, stored.paused) == ("0.25", True)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"do": "terms", "model": "other", "paused": True}, "does not serve 'other'; it serves echo"),
        ({"do": "terms", "model": "echo", "paused": True, "input_price": "much"}, "much"),
        ({"do": "terms", "model": "echo", "paused": True, "slots": 0}, "slots"),
        ({"do": "terms", "model": "echo", "paused": "yes"}, "bool"),
        ({"do": "terms", "model": "echo", "paused": True, "engine": "openai"}, "engine cannot be changed"),
        ({"do": "dance"}, "dance"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_nothing_changes(
    agent: Agent, tmp_path: Path, request_: dict[str, Any], said: str
) -> None:
    before = load_config(tmp_path)
    with pytest.raises(ValueError, match=said):
        await ask(tmp_path, request_)
    assert load_config(tmp_path) == before
    (model,) = agent.models.values()
    assert (model.terms.paused, model.offer().input_price) == (False, 300)


async def test_drain_can_be_asked_for(agent: Agent, tmp_path: Path) -> None:
    assert (await ask(tmp_path, {"do": "drain"}))["draining"]
    assert agent.draining


async def test_only_its_owner_reaches_it_and_a_second_agent_is_refused(agent: Agent, tmp_path: Path) -> None:
    assert stat.S_IMODE(socket_path(tmp_path).stat().st_mode) == 0o600
    with pytest.raises(RuntimeError, match="already"):
        async with listen(tmp_path, lambda request: {}):
            pass
    assert (await ask(tmp_path, {"do": "status"}))["running"]


async def test_noise_gets_an_error_and_the_next_request_an_answer(agent: Agent, tmp_path: Path) -> None:
    for noise in (b"not json\n", b"x" * 200_000 + b"\n", b"[]\n"):
        reader, writer = await asyncio.open_unix_connection(socket_path(tmp_path))
        writer.write(noise)
        assert "error" in json.loads(await reader.readline())
        writer.close()
    assert (await ask(tmp_path, {"do": "status"}))["running"]


async def test_a_socket_that_a_killed_agent_left_is_no_obstacle(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda reader, writer: None, socket_path(tmp_path))
    server.close()
    await server.wait_closed()
    assert socket_path(tmp_path).exists()
    with pytest.raises(NotRunning, match="start it with"):
        await ask(tmp_path, {"do": "status"})
    async with listen(tmp_path, lambda request: {"fine": True}):
        assert await ask(tmp_path, {}) == {"fine": True}
    assert not socket_path(tmp_path).exists()


@pytest.fixture
def deep_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that is too deep for a socket, and a temporary folder of its own."""
    home = tmp_path / ("deep" * 20) / ("deeper" * 10)
    home.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="ts", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield home


async def test_a_home_deeper_than_a_socket_may_be_works_as_well(deep_home: Path) -> None:
    home = deep_home
    async with listen(home, lambda request: {"fine": True}):
        assert await ask(home, {}) == {"fine": True}
    assert not socket_path(home).exists()


@pytest.mark.parametrize("whose", ["anybody's", "a link", "another's", "a file"])
async def test_a_shared_folder_that_somebody_else_may_change_is_not_used(
    deep_home: Path, whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = socket_path(deep_home).parent
    match whose:
        case "anybody's":
            folder.mkdir()
            folder.chmod(0o777)
        case "a link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "elsewhere")
        case "another's":
            folder.mkdir(mode=0o700)
            stranger = os.getuid() + 1
            monkeypatch.setattr(os, "getuid", lambda: stranger)
            folder.rename(socket_path(deep_home).parent)
        case _:
            folder.touch(mode=0o600)
    with pytest.raises(RuntimeError, match="yours alone"):
        async with listen(deep_home, lambda request: {"fine": True}):
            pass
    with pytest.raises(NotRunning, match="yours alone"):
        await ask(deep_home, {"do": "status"})


def test_a_pause_that_is_asked_for_while_models_load_holds_and_is_kept(tmp_path: Path) -> None:
    config = a_config()
    save_config(tmp_path, config)
    assert control_start(config, tmp_path, {"do": "status"})["starting"] is True
    told = control_start(config, tmp_path, {"do": "terms", "model": "", "paused": True})
    assert [model["paused"] for model in told["models"]] == [True]
    assert [terms.paused for terms in config.models] == [True]
    assert [terms.paused for terms in load_config(tmp_path).models] == [True]
    with pytest.raises(ValueError, match="still loads its models"):
        control_start(config, tmp_path, {"do": "drain"})
    with pytest.raises(ValueError, match="'other' is not configured; echo is"):
        control_start(config, tmp_path, {"do": "terms", "model": "other", "paused": True})
