"""A drill: a node goes on under another key; jobs end, receipts are answered, the operator earns on."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account as EthAccount
from sqlalchemy import select
from typer.testing import CliRunner

from marketplace.storage.tables import Account
from provider.agent import Agent
from provider.commands.steering import control
from provider.config import load_config, save_config
from provider.control import listen
from provider.evidence import Evidence
from provider.keystore import import_key, key_path, load_key
from provider.serving import ServedModel
from tallystick.cli import app as cli
from tallystick.protocol.ids import Address
from tests.api.asking import ask, says
from tests.api.conftest import new_consumer
from tests.support.acting import DRIP, ActingEngine
from tests.support.hubs import eventually
from tests.support.nodes import key_of
from tests.support.servers import NODE, OPERATOR, OPERATOR_SECRET, Server, a_place, a_server

WORDS = "a passphrase"
LONG = 300
"""Tokens of an answer that takes some seconds."""


@pytest.fixture(autouse=True)
def _cheap_keystores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keystore's key derivation is slow on purpose; here it need not be."""
    cheap = functools.partial(EthAccount.encrypt, kdf="pbkdf2", iterations=2)
    monkeypatch.setattr("eth_account.Account.encrypt", cheap)


@asynccontextmanager
async def agent_of(server: Server, home: Path) -> AsyncIterator["asyncio.Task[None]"]:
    """Run the agent of a home as `provider run` does, with an engine that acts."""
    config = load_config(home)
    evidence = Evidence(home / "evidence.sqlite")
    model = ServedModel(ActingEngine(server.acts), config.models[0])
    key = load_key(home, "node", WORDS)
    agent = Agent(config, key, [model], evidence, software="test", hardware="test")

    async def run() -> None:
        async with listen(home, lambda request: control(agent, home, request)):
            await agent.run()

    task = asyncio.create_task(run())
    try:
        await eventually(lambda: _is_served_by(server, key.address), 30)
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        evidence.close()


def _is_served_by(server: Server, node: Address) -> bool:
    known = [one for one in server.parts.hub.nodes() if one.address == node]
    return any(one.eligible and all(map(server.parts.catalog.by_id, one.asks)) for one in known)


def nothing_waits(home: Path) -> bool:
    """Return whether the agent has the coordinator's word on everything that it signed."""
    evidence = Evidence(home / "evidence.sqlite")
    try:
        return evidence.pending_count() == 0
    finally:
        evidence.close()


def rotate(home: Path, code: int = 0) -> Any:
    """Run the command."""
    arguments = ["provider", "rotate-node-key", "--home", str(home), "--yes", "--json"]
    told = CliRunner().invoke(cli, arguments, env={"TALLYSTICK_PASSPHRASE": WORDS})
    assert told.exit_code == code, told.output
    return json.loads(told.stdout) if told.stdout else told.stderr


def test_a_node_goes_on_under_a_new_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with a_place() as place, a_server(place, tmp_path / "market", with_node=False) as server:
        save_config(home, place.config(f"{server.url}/v1"))
        import_key(home, "operator", OPERATOR_SECRET, WORDS)
        import_key(home, "node", NODE.to_bytes(32, "big"), WORDS)
        old, key = key_of(NODE).address, new_consumer(server)["api_key"]
        with server.openai(key) as client:
            with place.background.hold(agent_of(server, home)) as running:
                # It is drained in the middle of an answer, which comes to its end all the same.
                with client.chat.completions.create(
                    model="echo", messages=says(DRIP), max_tokens=LONG, stream=True
                ) as stream:
                    first = next(iter(stream))
                    told = rotate(home)
                    rest = [one.choices[0].delta.content or "" for one in stream if one.choices]
                assert (first.choices[0].delta.content or "") + "".join(rest) == "d" * LONG
                assert running.done()
            new = told["node"]
            assert (told["old_node"], load_config(home).node) == (old, new)
            assert load_key(home, "node", WORDS).address == new != old
            assert [one["what"] for one in told["transactions"]] == [f"add node {new}", f"remove node {old}"]
            assert key_path(home, "node").stat().st_mode & 0o777 == 0o600
            with place.background.hold(agent_of(server, home)):
                assert ask(client, "hello").choices[0].message.content == "hello"
                server.quiet()
                place.background.do(eventually(lambda: nothing_waits(home), 30))
        evidence = Evidence(home / "evidence.sqlite")
        kept = [one.earning for one in evidence.recent(10) if one.state == "taken"]
        assert (len(kept), evidence.pending_count()) == (2, 0)
        evidence.close()
        stake = place.market.contracts.stake
        owner, status = place.background.do(stake.read("operatorOf", new))
        assert (owner.lower(), status) == (OPERATOR.address, 1)
        earned = select(Account.earned_pending).where(Account.address == OPERATOR.address)  # type: ignore[call-overload]
        assert server.read(lambda session: session.scalar(earned)) == sum(kept)
