"""An account or a node is suspended from the command line while the coordinator runs, and goes on later."""

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy.orm import Session

from marketplace.storage.queries import nodes
from marketplace.storage.tables import NodeRow
from tests.api.asking import ask
from tests.api.test_operator import run
from tests.support.nodes import key_of
from tests.support.servers import NODE, OPERATOR, Server

PATIENCE = 90


def until(is_it: Callable[[], bool]) -> None:
    """Wait for a state that a running coordinator comes to by itself."""
    deadline = time.monotonic() + PATIENCE
    while not is_it():
        assert time.monotonic() < deadline, "the coordinator has not noticed"
        time.sleep(0.1)


def asked(client: OpenAI, error: type[openai.APIStatusError]) -> bool:
    """Return whether a request ends in this error."""
    try:
        ask(client, "hello")
    except error:
        return True
    except openai.APIStatusError:
        return False
    return False


def test_a_suspended_accounts_keys_stop_and_work_again(
    server: Server, consumer: dict[str, Any], client: OpenAI
) -> None:
    assert ask(client, "hello").choices[0].message.content == "hello"
    email = str(server.account(consumer["account_id"]).email)
    assert run(server, "accounts", "suspend", email)["status"] == "suspended"
    until(lambda: asked(client, openai.PermissionDeniedError))
    listed = run(server, "accounts", "list", "--status", "suspended", "--limit", "1000")["accounts"]
    assert [one["who"] for one in listed] == [email]
    assert run(server, "accounts", "resume", consumer["account_id"])["status"] == "active"
    until(lambda: not asked(client, openai.PermissionDeniedError))
    shown = run(server, "accounts", "show", email)
    assert float(shown["spent_usd"]) > 0
    assert [key["revoked"] for key in shown["api_keys"]] == [False]


def test_who_cannot_be_suspended(server: Server) -> None:
    assert "treasury" in run(server, "accounts", "suspend", "treasury", code=1)
    assert "no account" in run(server, "accounts", "suspend", "nobody@example.com", code=1)
    assert "was ever connected" in run(server, "nodes", "suspend", key_of(1234).address, code=1)
    assert "address" in run(server, "nodes", "suspend", "node-1", code=1)


@pytest.mark.parametrize("who", [key_of(NODE).address, OPERATOR.address])
def test_a_suspended_node_gets_no_jobs_and_stays_connected(server: Server, client: OpenAI, who: str) -> None:
    assert run(server, "nodes", "suspend", who)["nodes"] == [key_of(NODE).address]
    until(lambda: asked(client, openai.InternalServerError))
    assert [node.address for node in server.parts.hub.nodes()] == [key_of(NODE).address]
    (line,) = run(server, "nodes", "list")["nodes"]
    assert (line["suspended"], line["operator"]) == (True, OPERATOR.address)
    run(server, "nodes", "resume", who)
    until(lambda: not asked(client, openai.InternalServerError))


def test_a_new_key_is_no_way_out_of_a_suspension(server: Server) -> None:
    operator, first, second = (key_of(number).address for number in (901, 902, 903))

    def add(session: Session, address: str, suspended: bool) -> None:
        session.add(
            NodeRow(address=address, operator=operator, first_seen=1, last_seen=1, suspended=suspended)
        )

    assert server.read(lambda session: nodes.is_operator_suspended(session, operator)) is False
    server.write(lambda session: add(session, first, True))
    assert server.read(lambda session: nodes.is_operator_suspended(session, operator)) is True
    server.write(lambda session: add(session, second, False))
    assert server.read(lambda session: nodes.is_operator_suspended(session, operator)) is False
