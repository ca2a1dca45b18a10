"""A drill: a market moves to new contracts; everybody has their money, their account and their keys."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from marketplace.services import winding
from marketplace.services.audit_books import audit_books
from marketplace.services.keys import KeyTerms
from marketplace.services.maturity import mature_due
from provider.wallet import Operator
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.api.test_operator import run
from tests.support.anvil import LONG_TERMS, OWNER, USD, market_at
from tests.support.servers import DEPOSIT, OPERATOR, Place, Server, _stake, a_place, a_server

PATIENCE = 90
WALLET = 5
EVERYTHING = 2**64 - 1
SETTINGS: dict[str, Any] = {
    "maturity_lag_seconds": 0,
    "settle_poll_seconds": 0.3,
    "row_threshold_usd": "0.000000001",
    "longest_wait_epochs": 0,
}


def until(is_it: Callable[[], Any]) -> None:
    """Wait for a state that comes by itself."""
    deadline = time.monotonic() + PATIENCE
    while not is_it():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.1)


def works(client: OpenAI) -> bool:
    """Return whether a request is answered, rather than refused for want of money."""
    try:
        return ask(client, "hello").choices[0].message.content == "hello"
    except openai.APIStatusError as error:
        if error.status_code != 402:
            raise
        return False


def port(server: Server) -> str:
    """Return where a coordinator listens."""
    return str(server.parts.settings.port)


def wallet_key(server: Server, address: str) -> str:
    """Return an API key of a wallet whose deposit the coordinator has seen."""
    until(lambda: address in {one["who"] for one in run(server, "accounts", "list")["accounts"]})
    return server.do(server.parts.keys.create_key(address, KeyTerms(cap=None))).secret


def units(place: Place, address: str) -> int:
    """Return the nano-dollars that an address has in tokens."""
    return 1000 * int(place.background.do(place.market.contracts.token.read("balanceOf", address)))


def send(place: Place, who: int, function: str, *arguments: Any) -> None:
    """Send a transaction to the Ledger."""
    call = place.market.contracts.ledger.prepare(function, *arguments)
    wallet = place.market.wallet(who) if who != OWNER else place.market.owner
    place.background.do(wallet.send(call))


def test_a_market_moves_to_new_contracts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with a_place() as old, old.background.hold(market_at(old.deployment.rpc_url, deposit=DEPOSIT)) as market:
        wallet = old.market.wallet(WALLET).address
        old.background.do(old.market.deposit(old.market.wallet(WALLET), 10 * USD, 10 * USD))
        with a_server(old, first, **SETTINGS) as server:
            by_email, by_wallet = new_consumer(server)["api_key"], wallet_key(server, wallet)
            for key in (by_email, by_wallet):
                with server.openai(key) as client:
                    ask(client, "hello")
            server.quiet()
        assert run(first, "coordinator", "wind-down", code=1)

        with a_server(old, first, **SETTINGS) as server:
            # Nothing may be open at this moment, but more can come at any.
            told = run(server, "coordinator", "wind-down", code=1, TALLYSTICK_PORT=port(server))
            assert (told["wound_down"], told["accepts_jobs"]) == (False, True)
            assert "ACCEPT_JOBS" in told["next"]
            told = run(server, "coordinator", "wind-down", code=1, TALLYSTICK_PORT="1")
            assert (told["wound_down"], told["accepts_jobs"]) == (False, None)

        with a_server(old, first, **SETTINGS, accept_jobs=False) as server:
            with server.openai(by_email) as client, pytest.raises(openai.APIStatusError, match="no new jobs"):
                ask(client, "hello")
            server.do(mature_due(server.parts.database, server.parts.clock))  # before the epoch ends
            old.background.do(old.market.wait(LONG_TERMS.epoch_length))
            until(
                lambda: old.background.do(old.market.mine()) or server.read(winding.remaining).is_wound_down
            )
            assert server.read(audit_books).findings == ()
            told = run(server, "coordinator", "wind-down", TALLYSTICK_PORT=port(server))
            assert (told["wound_down"], told["accepts_jobs"]) == (True, False)
        told = run(first, "coordinator", "wind-down")
        assert (told["wound_down"], told["owed_usd"], told["unconsented_usd"]) == (True, "0.00", "0.00")

        # Operators and consumers take what is theirs, with nobody's help.
        operator = Operator(old.config("http://127.0.0.1:1/v1"), old.market.connection)
        before = units(old, OPERATOR.address)
        old.background.do(operator.send(OPERATOR, [operator.claim_step()]))
        assert units(old, OPERATOR.address) > before
        _, spent, _, _ = old.background.do(old.market.contracts.ledger.read("accountOf", wallet))
        send(old, WALLET, "requestWithdrawal", EVERYTHING)
        old.background.do(old.market.wait(LONG_TERMS.thaw))
        send(old, WALLET, "withdraw")
        assert 0 <= 10 * USD - spent - units(old, wallet) < 1000

        new = Place(old.background, market, old.acts)
        new.background.do(_stake(new))
        with a_server(new, second, **SETTINGS) as server:
            carried = run(server, "coordinator", "carry-over", str(first))
            assert carried["left_behind"] == []
            assert carried["credit_usd"] == told["credit_usd"] != "0.00"
            again = run(server, "coordinator", "carry-over", str(first))
            assert again["credit_usd"] == "0.00"
            with server.openai(by_email) as client, server.openai(by_wallet) as other:
                assert works(client)
                assert not works(other)
                new.background.do(new.market.deposit(new.market.wallet(WALLET), 5 * USD, 5 * USD))
                until(lambda: works(other))
            server.quiet()
            assert server.read(audit_books).findings == ()
        assert run(first, "coordinator", "wind-down")["credit_usd"] == "0.00"
