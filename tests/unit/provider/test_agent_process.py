"""`tallystick provider run` as a process: it drains on SIGTERM, and a SIGKILL loses nothing it signed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from provider.config import ModelConfig, save_config
from provider.control import NotRunning, ask
from provider.engines.echo import EchoEngine
from provider.evidence import Evidence
from provider.keystore import import_key
from tallystick.models.manifest import model_id
from tallystick.protocol.receipts import Finish
from tests.support.agents import a_config, an_agent, echo_of, stake_behind
from tests.support.hubs import eventually
from tests.support.markets import Stand, a_market, a_request, answer_of

TALLYSTICK = str(Path(sys.executable).with_name("tallystick"))
MODEL = model_id(EchoEngine().manifest_bytes)
OPTIONS: dict[str, Any] = {"tokens_per_event": 1, "seconds_per_token": 0.05}


@asynccontextmanager
async def process(stand: Stand, home: Path, **changes: Any) -> AsyncIterator["asyncio.subprocess.Process"]:
    """Run an agent's process until it is connected; kill it at the end."""
    config = a_config(
        stand.url, models=[ModelConfig(engine="echo", model="echo", options=OPTIONS)], **changes
    )
    stake_behind(stand, config)
    save_config(home, config)
    if not (home / "keys").exists():
        import_key(home, "node", (1).to_bytes(32, "big"), "words")
    started = await asyncio.create_subprocess_exec(
        *(TALLYSTICK, "provider", "run", "--home", str(home)),
        env={**os.environ, "TALLYSTICK_PASSPHRASE": "words"},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await eventually(lambda: any(node.address == config.node for node in stand.hub.nodes()), 60)
        await eventually(lambda: stand.catalog.by_id(MODEL) is not None)
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def _request(home: Path, text: str = "hello") -> Any:
    agent = an_agent(a_config(), home / "twin")
    agent.evidence.close()
    return a_request(**echo_of(agent, text))


@pytest.mark.slow
async def test_sigterm_finishes_the_running_job_and_leaves_with_0(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, process(stand, tmp_path / "home") as agent:
        running = await stand.market.submit(_request(tmp_path))
        events = aiter(running)
        await anext(events)
        agent.send_signal(signal.SIGTERM)
        _, _, completed = await answer_of(running)
        assert completed.finish == Finish.EOS
        assert await asyncio.wait_for(agent.wait(), 15) == 0
        store = Evidence(tmp_path / "home" / "evidence.sqlite")
        assert store.recent(1)[0].state == "taken"
        store.close()
        with pytest.raises(NotRunning):
            await ask(tmp_path / "home", {"do": "status"})


@pytest.mark.slow
async def test_a_killed_agent_starts_again_in_the_same_home(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand:
        async with process(stand, tmp_path / "home") as agent:
            assert (await ask(tmp_path / "home", {"do": "status"}))["connected"]
            agent.kill()
            await agent.wait()
        async with process(stand, tmp_path / "home"):
            text, _, _ = await answer_of(await stand.market.submit(_request(tmp_path)))
            assert text == "hello"


@pytest.mark.slow
async def test_a_second_agent_in_one_home_is_refused(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, process(stand, tmp_path / "home") as first:
        second = await asyncio.create_subprocess_exec(
            *(TALLYSTICK, "provider", "run", "--home", str(tmp_path / "home")),
            env={**os.environ, "TALLYSTICK_PASSPHRASE": "words"},
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        _, said = await second.communicate()
        assert second.returncode == 1
        assert b"already" in said
        assert first.returncode is None


@pytest.mark.slow
async def test_a_second_sigterm_hands_over_at_once(tmp_path: Path) -> None:
    async with a_market(tmp_path) as stand, process(stand, tmp_path / "home") as agent:
        running = await stand.market.submit(_request(tmp_path, "a" * 60))
        events = aiter(running)
        await anext(events)
        agent.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        agent.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(agent.wait(), 3) == 0
        store = Evidence(tmp_path / "home" / "evidence.sqlite")
        (kept,) = store.recent(2)
        store.close()
        assert kept.signed.receipt.finish == Finish.HANDED_OVER
        assert 0 < kept.signed.receipt.output_tokens < 60
        await running.aclose()
