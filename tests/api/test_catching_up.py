"""A drill: the books are lost after epochs were settled that the backup does not know; nobody pays twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from marketplace.services.ledger.recovery import FORGOTTEN_ID
from marketplace.services.maturity import mature_due
from marketplace.services.settlement.behind import BooksBehind
from tallystick.protocol.money import NanoUsd, format_usd
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.api.test_moving import WALLET, wallet_key
from tests.api.test_operator import run
from tests.api.test_suspensions import until
from tests.support.anvil import LONG_TERMS, USD
from tests.support.servers import OPERATOR, Place, Server, a_place, a_server

QUICK: dict[str, Any] = {
    "maturity_lag_seconds": 0,
    "settle_poll_seconds": 0.3,
    "row_threshold_usd": "0.000000001",
    "longest_wait_epochs": 0,
}


def catch_up(folder: Path, *arguments: str, code: int = 0) -> Any:
    """Run `tallystick books catch-up` as these tests' coordinators are set up."""
    settings = {"TALLYSTICK_COORDINATOR_KEY": "key", "TALLYSTICK_CONFIRMATIONS": "0"}
    return run(folder, "books", "catch-up", *arguments, code=code, **settings)


def settle(place: Place, server: Server) -> int:
    """Let the running epoch end, and settle what was done; return the epoch's number."""
    server.quiet()
    server.do(mature_due(server.parts.database, server.parts.clock))  # before the epoch ends
    running = server.do(server.parts.chain.ledger()).next_epoch
    head = server.do(server.parts.chain.head())
    number = server.parts.terms.epochs.at(head.timestamp)
    server.do(place.market.wait(LONG_TERMS.epoch_length))
    until(
        lambda: server.do(place.market.mine()) or server.do(server.parts.chain.ledger()).next_epoch > running
    )
    return number


def test_restored_books_learn_what_was_settled_since(tmp_path: Path) -> None:
    archive, lost, again = str(tmp_path / "books.tar"), tmp_path / "lost", tmp_path / "again"
    with a_place() as place:
        wallet = place.market.wallet(WALLET).address
        place.background.do(place.market.deposit(place.market.wallet(WALLET), 10 * USD, 10 * USD))
        with a_server(place, lost, **QUICK) as server:
            person, by_wallet = new_consumer(server), wallet_key(server, wallet)
            by_email = person["api_key"]
            everybody_asks(server, by_email, by_wallet)
            server.quiet()
            with while_it_runs(server, by_wallet, wallet):
                run(server, "books", "backup", archive)
            first = settle(place, server)
            everybody_asks(server, by_email, by_wallet)
            second = settle(place, server)
            spent, earned = server.account(wallet).spent, server.account(OPERATOR.address).earned
            left = server.account(person["account_id"]).balance

        run(again, "books", "restore", archive)
        with pytest.raises(BooksBehind, match="books catch-up"), a_server(place, again, **QUICK):
            pass
        assert f"epoch {first} is not here" in catch_up(again, code=1)
        told = catch_up(again, "--from", str(lost / "epochs"))
        assert (told["epochs"], told["receipts"]) == ([first, second], 3)
        assert run(again, "books", "verify")["held"] is True
        assert catch_up(again)["epochs"] == []

        with a_server(place, again, **QUICK) as server:
            assert server.account(wallet).spent == server.account(wallet).spent_settled == spent
            assert server.account(OPERATOR.address).earned == earned
            # Who spent credit is on no receipt: the operator gives it once more.
            given_again = server.account(person["account_id"]).balance - left
            assert given_again == server.account(FORGOTTEN_ID).spent > 0
            assert told["charged_to_the_operator_usd"] == format_usd(NanoUsd(given_again))
            everybody_asks(server, by_email, by_wallet)
            settle(place, server)
            until(lambda: server.account(OPERATOR.address).earned_settled > earned)
            assert run(server, "books", "verify")["held"] is True


@contextmanager
def while_it_runs(server: Server, key: str, account_id: str) -> Iterator[None]:
    """Let a job of the account run meanwhile, whose hold is in the books; it ends after."""
    with server.openai(key) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, client, "withheld")
        until(lambda: server.account(account_id).held > 0)
        yield
        server.place.background.loop.call_soon_threadsafe(server.acts.allowed.set)
        assert asked.result(30).choices[0].message.content


def everybody_asks(server: Server, *keys: str) -> None:
    """Let each key pay for one answer."""
    for key in keys:
        with server.openai(key) as client:
            ask(client, "hello")
