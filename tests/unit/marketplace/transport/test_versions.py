"""Agents and coordinators of different versions: what works says so, and what does not is clear to both."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect

from provider.link import LinkRefused
from tallystick.protocol.frames import (
    PROTOCOL_MINOR,
    PROTOCOL_VERSION,
    Goodbye,
    Welcome,
    decode_frames,
    encode_frames,
)
from tests.support.agents import a_config, an_agent, idle, running, scripted_coordinator
from tests.support.hubs import IDENTITY, Notes, StakeList, a_hub, eventually, running_hub, served
from tests.support.nodes import ScriptedNode


class Said:
    """Takes the place of a logger: what other tests have made of the real ones does not matter here."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append({"event": event, "level": "info"} | fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append({"event": event, "level": "warning"} | fields)

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines about an event."""
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def hub_said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the hub logs."""
    said = Said()
    monkeypatch.setattr("marketplace.transport.hub.log", said)
    return said


@pytest.fixture
def agent_said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the agent logs."""
    said = Said()
    monkeypatch.setattr("provider.agent.log", said)
    return said


async def welcome_of(minor: Any) -> Welcome:
    """Return how the hub welcomes a node of this minor version."""
    node = ScriptedNode(1)
    async with running_hub(a_hub(StakeList(node), Notes())) as url, connect(url, proxy=None) as socket:
        (challenge,) = decode_frames(await socket.recv(decode=False))
        await socket.send(encode_frames([node.hello(challenge, minor=minor)]))  # type: ignore[arg-type]
        (welcome, *_) = decode_frames(await socket.recv(decode=False))
        assert isinstance(welcome, Welcome)
        return welcome


async def test_a_node_of_an_older_minor_version_is_let_in_and_told(hub_said: Said) -> None:
    welcome = await welcome_of(msgspec.UNSET)
    assert welcome.notice is not msgspec.UNSET
    assert f"{PROTOCOL_VERSION}.0, the coordinator {PROTOCOL_VERSION}.{PROTOCOL_MINOR}" in welcome.notice
    assert [line["event"] for line in hub_said.lines if line["level"] == "warning"] == ["node_is_older"]


@pytest.mark.parametrize("minor", [PROTOCOL_MINOR, PROTOCOL_MINOR + 1])
async def test_a_node_as_new_or_newer_hears_nothing(minor: int) -> None:
    assert (await welcome_of(minor)).notice is msgspec.UNSET


@pytest.mark.parametrize(("theirs", "older"), [(0, "node"), (2, "coordinator")])
async def test_a_hello_of_another_version_is_refused_also_if_it_cannot_be_read(
    theirs: int, older: str
) -> None:
    hello = {"t": "hello", "version": theirs, "whatever": ["that", "version", "says"]}
    async with running_hub(a_hub(StakeList(), Notes())) as url, connect(url, proxy=None) as socket:
        await socket.recv()
        await socket.send(msgspec.msgpack.encode([hello]))
        (goodbye,) = decode_frames(await socket.recv(decode=False))
    assert isinstance(goodbye, Goodbye)
    assert (goodbye.code, goodbye.retry) == ("version", False)
    assert f"the node {theirs}: upgrade the {older}" in goodbye.message


async def test_an_agent_and_a_coordinator_of_another_version_both_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_said: Said
) -> None:
    monkeypatch.setattr("marketplace.transport.handshake.PROTOCOL_VERSION", 2)
    async with running_hub(a_hub(StakeList(), Notes())) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent) as task:
            with pytest.raises(LinkRefused, match=r"protocol 2 .* this agent 1; upgrade the agent"):
                await asyncio.wait_for(asyncio.shield(task), 30)
        await eventually(lambda: bool(hub_said.of("node_rejected")), 30)
    (rejected,) = hub_said.of("node_rejected")
    assert rejected["code"] == "version"
    assert "upgrade the agent" in rejected["reason"]


async def test_an_agent_leaves_a_coordinator_whose_challenge_it_cannot_read(tmp_path: Path) -> None:
    async def serve(socket: Any) -> None:
        await socket.accept()
        await socket.send_bytes(msgspec.msgpack.encode([{"t": "challenge", "version": 3, "new": 1}]))
        await socket.receive()

    async with served(serve) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent) as task:
            with pytest.raises(LinkRefused, match="protocol 3"):
                await asyncio.wait_for(asyncio.shield(task), 30)


async def test_an_agent_serves_a_coordinator_of_an_older_minor_version_and_says_so(
    tmp_path: Path, agent_said: Said
) -> None:
    older = msgspec.structs.replace(IDENTITY.challenge(), minor=msgspec.UNSET)
    async with scripted_coordinator(idle, challenge=older) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: bool(agent_said.of("notice")), 30)
            assert agent.connected_since is not None
    (notice,) = [line["notice"] for line in agent_said.of("notice")]
    assert notice.startswith(f"the coordinator speaks protocol {PROTOCOL_VERSION}.0")
