"""A drill: the coordinator goes on under another key, with the same jobs, receipts, cheques and money."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from marketplace.storage.queries import settlement
from marketplace.storage.tables import Account
from provider.evidence import Cheque
from provider.wallet import Operator
from tallystick.anvil import anvil_key
from tallystick.protocol.eip712 import acknowledgement_digest
from tallystick.protocol.keys import SigningKey, recover
from tallystick.protocol.money import NanoUsd
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.api.test_operator import run
from tests.support.anvil import LONG_TERMS, OWNER
from tests.support.servers import OPERATOR, Place, Server, a_place, a_server

PATIENCE = 90
OWNER_SECRET = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
SETTINGS: dict[str, Any] = {
    "maturity_lag_seconds": 0,
    "settle_poll_seconds": 0.3,
    "row_threshold_usd": "0.000000001",
    "longest_wait_epochs": 0,
}


@pytest.fixture
def own_place() -> Iterator[Place]:
    """Contracts of the test's own: their coordinator changes."""
    with a_place() as place:
        yield place


@pytest.fixture
def owner_key(tmp_path: Path) -> Path:
    """The file with the key of the Ledger's owner."""
    path = tmp_path / "owner.key"
    path.write_text(OWNER_SECRET)
    assert SigningKey(bytes.fromhex(OWNER_SECRET)).address == anvil_key(OWNER).address
    return path


def until(is_it: Callable[[], Any]) -> Any:
    """Return the first true value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := is_it()):
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.1)
    return value


def cheque_of(server: Server, at_least: int = 1) -> Cheque:
    """Return the operator's highest cheque, once there is one for so much."""
    assert server.agent is not None
    evidence = server.agent.evidence

    def highest() -> Cheque | None:
        held = evidence.cheques(OPERATOR.address)
        return max((one for one in held if one.earned >= at_least), key=lambda one: one.earned, default=None)

    found: Cheque = until(highest)
    return found


def signer(place: Place, cheque: Cheque) -> str:
    """Return who signed a cheque."""
    domain = place.deployment.ledger_domain
    digest = acknowledgement_digest(domain, OPERATOR.address, cheque.epoch, NanoUsd(cheque.earned))
    return recover(digest, cheque.signature)


def on_chain(place: Place) -> int:
    """Return what the Ledger has credited the operator, ever."""
    *_, earned = place.background.do(place.market.contracts.ledger.read("accountOf", OPERATOR.address))
    return int(earned)


def earned(server: Server) -> int:
    """Return what the operator has earned and what has matured, by the books."""
    return server.read(
        lambda session: (
            session.scalar(
                select(Account.earned).where(Account.address == OPERATOR.address)  # type: ignore[call-overload]
            )
            or 0
        )
    )


def test_a_new_key_takes_over_and_the_old_ones_word_is_kept(
    own_place: Place, folder: Path, owner_key: Path
) -> None:
    place = own_place
    old = place.deployment.coordinator
    with a_server(place, folder, **SETTINGS) as server:
        consumer = new_consumer(server)
        with server.openai(consumer["api_key"]) as client:
            ask(client, "hello")
        cheque = cheque_of(server)
        assert signer(place, cheque) == old
        refused = rotate(server, owner_key, code=1)
        assert "another coordinator" in refused

    told = rotate(folder, owner_key)
    new = told["new_coordinator"]
    assert (told["old_coordinator"], told["to_be_sent_by_owner"]) == (old, [])
    assert float(told["gas_money"]) > 1
    assert place.background.do(place.market.contracts.ledger.read("coordinator")) == new
    assert os.stat(folder / "key").st_mode & 0o777 == 0o600

    # The coordinator does not come back for a while, so the operator cashes what the old key has signed.
    place.background.do(place.market.wait(3 * (LONG_TERMS.epoch_length + LONG_TERMS.settlement_lag)))
    operator = Operator(place.config("http://127.0.0.1:1/v1"), place.market.connection)
    place.background.do(operator.send(OPERATOR, [operator.cash_step(cheque)]))
    assert on_chain(place) == cheque.earned

    with a_server(place, folder, **SETTINGS) as server:
        with server.http() as http:
            assert http.get("/v1/market").json()["coordinator"] == new
        with server.openai(consumer["api_key"]) as client:
            ask(client, "hello again")
        later = cheque_of(server, cheque.earned + 1)
        assert signer(place, later) == new
        place.background.do(place.market.wait(LONG_TERMS.epoch_length))
        until(lambda: place.background.do(place.market.mine()) or on_chain(place) == later.earned)
        assert server.agent is not None
        assert server.agent.evidence.pending_count() == 0
        server.quiet()
        assert run(server, "books", "verify")["held"] is True


def test_an_epoch_on_its_way_is_finished_by_the_old_key_first(
    own_place: Place, folder: Path, owner_key: Path
) -> None:
    place = own_place
    with a_server(place, folder, **(SETTINGS | {"settle_poll_seconds": 3600})) as server:
        with server.openai(new_consumer(server)["api_key"]) as client:
            ask(client, "hello")
        server.quiet()
        server.do(server.parts.back_office.settle())
        place.background.do(place.market.wait(LONG_TERMS.epoch_length))
        server.do(server.parts.back_office._settlement.step())
        assert server.read(settlement.unfinished) is not None
        due = earned(server)
    printed = rotate(folder, None, code=2)
    assert [one["what"].split()[0] for one in printed["to_be_sent_by_owner"]] == ["make", "commit"]
    assert on_chain(place) == due > 0
    done = rotate(folder, owner_key)
    assert done["new_coordinator"] == printed["new_coordinator"]
    with a_server(place, folder, **SETTINGS) as server:
        assert server.read(settlement.unfinished) is None


def rotate(where: Server | Path, owner_key: Path | None, code: int = 0) -> Any:
    """Run the command, as the owner's machine or another one does."""
    given = [] if owner_key is None else ["--owner-key", str(owner_key), "--yes"]
    environment = {
        "TALLYSTICK_COORDINATOR_KEY": "key",
        "TALLYSTICK_CONFIRMATIONS": "0",
        "TALLYSTICK_LONGEST_WAIT_EPOCHS": "0",
    }
    return run(where, "coordinator", "rotate-key", *given, code=code, **environment)
