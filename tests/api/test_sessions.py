"""Signing in by wallet (EIP-4361), each way in which it is refused, and the consents of a wallet."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tallystick.protocol.eip712 import consent_digest
from tallystick.protocol.keys import SigningKey
from tallystick.signin import SignIn, personal_digest
from tests.api.asking import ask
from tests.support.anvil import USD
from tests.support.servers import Server


@pytest.fixture
def wallet() -> SigningKey:
    return SigningKey(os.urandom(32))


@pytest.fixture
def visitor(server: Server) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def a_message(visitor: httpx.Client, wallet: SigningKey, **changes: Any) -> SignIn:
    told = visitor.get("/v1/sessions/nonce").json()
    now = datetime.now(UTC)
    message = SignIn(
        domain=told["domain"],
        address=wallet.address,
        uri=told["uri"],
        chain_id=told["chain_id"],
        nonce=told["nonce"],
        issued_at=now,
        expires_at=now + timedelta(minutes=5),
    )
    return replace(message, **changes)


def sign_in(visitor: httpx.Client, wallet: SigningKey, message: SignIn | str) -> httpx.Response:
    text = message if isinstance(message, str) else message.text()
    signature = "0x" + wallet.sign_digest(personal_digest(text)).hex()
    return visitor.post("/v1/sessions", json={"message": text, "signature": signature})


def test_a_wallet_signs_in_and_makes_a_key(server: Server, visitor: httpx.Client, wallet: SigningKey) -> None:
    answer = sign_in(visitor, wallet, a_message(visitor, wallet))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["address"] == wallet.address
    with server.http(told["token"]) as client:
        made = client.post("/v1/keys", json={"name": "first"})
        assert made.status_code == 201
    with server.http(made.json()["key"]) as client:
        account = client.get("/v1/account").json()
        assert (account["kind"], account["address"]) == ("wallet", wallet.address)
        balance = client.get("/v1/balance").json()
        assert (balance["kind"], balance["available_nano_usd"]) == ("wallet", "0")


def test_a_wallet_has_one_account(visitor: httpx.Client, wallet: SigningKey) -> None:
    ids = {sign_in(visitor, wallet, a_message(visitor, wallet)).json()["account_id"] for _ in range(2)}
    assert len(ids) == 1


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"domain": "evil.example.com"}, "it is for evil.example.com"),
        ({"chain_id": 1}, "it is for chain 1"),
        ({"expires_at": NOW - timedelta(seconds=1)}, "expired"),
        ({"expires_at": None}, "no expiration"),
        ({"not_before": NOW + timedelta(hours=1), "expires_at": NOW + timedelta(hours=2)}, "not valid yet"),
        ({"issued_at": NOW + timedelta(hours=1), "expires_at": NOW + timedelta(hours=2)}, "in the future"),
        ({"version": "2"}, "version"),
        ({"nonce": "0123456789abcdef"}, "nonce"),
    ],
)
def test_a_message_that_is_not_for_this_market_now_is_refused(
    visitor: httpx.Client, wallet: SigningKey, changes: dict[str, Any], why: str
) -> None:
    message = a_message(visitor, wallet, **{name: changes[name] for name in changes if name != "not_before"})
    text = message.text().replace("Version: 1", f"Version: {message.version}")
    if "not_before" in changes:
        text += "\nNot Before: " + changes["not_before"].isoformat().replace("+00:00", "Z")
    answer = sign_in(visitor, wallet, text)
    assert answer.status_code == 401, answer.text
    assert why in answer.json()["error"]["message"]


def test_a_nonce_is_good_once(visitor: httpx.Client, wallet: SigningKey) -> None:
    message = a_message(visitor, wallet)
    assert sign_in(visitor, wallet, message).status_code == 200
    again = sign_in(visitor, wallet, message)
    assert (again.status_code, again.json()["error"]["code"]) == (401, "bad_nonce")


def test_a_refused_message_leaves_its_nonce_usable(visitor: httpx.Client, wallet: SigningKey) -> None:
    message = a_message(visitor, wallet)
    assert sign_in(visitor, wallet, replace(message, domain="evil.example.com")).status_code == 401
    assert sign_in(visitor, wallet, message).status_code == 200


def test_a_signature_by_another_wallet_is_refused(visitor: httpx.Client, wallet: SigningKey) -> None:
    answer = sign_in(visitor, SigningKey(os.urandom(32)), a_message(visitor, wallet))
    assert answer.status_code == 401
    assert f"not by {wallet.address}" in answer.json()["error"]["message"]


def test_a_signature_under_another_text_is_refused(visitor: httpx.Client, wallet: SigningKey) -> None:
    message = a_message(visitor, wallet)
    signature = "0x" + wallet.sign_digest(personal_digest(message.text() + " ")).hex()
    answer = visitor.post("/v1/sessions", json={"message": message.text(), "signature": signature})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("signature", "status"), [("0x00", 401), ("", 401), ("0x" + "ff" * 65, 401), ("zz", 400)]
)
def test_what_is_no_signature_is_refused(
    visitor: httpx.Client, wallet: SigningKey, signature: str, status: int
) -> None:
    text = a_message(visitor, wallet).text()
    answer = visitor.post("/v1/sessions", json={"message": text, "signature": signature})
    assert answer.status_code == status


def test_what_is_no_sign_in_message_is_refused(visitor: httpx.Client, wallet: SigningKey) -> None:
    answer = sign_in(visitor, wallet, "Please sign this.")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_sign_in")


def test_a_wallet_deposits_spends_and_consents(server: Server, visitor: httpx.Client) -> None:
    wallet, domain = SigningKey(os.urandom(32)), server.place.deployment.ledger_domain
    server.do(_deposit(server, wallet))
    token = sign_in(visitor, wallet, a_message(visitor, wallet)).json()["token"]
    with server.http(token) as client:
        key = client.post("/v1/keys", json={}).json()["key"]
        with server.openai(key) as user:
            # Nothing is authorized: the unsigned allowance of $0.05 is all that there is a right to.
            spent = int(ask(user, "hello").to_dict()["tallystick"]["charge_nano_usd"])  # type: ignore[index,call-overload]
            balance = client.get("/v1/balance").json()
            assert balance["balance_nano_usd"] == str(USD - spent)
            assert balance["available_nano_usd"] == str(50_000_000 - spent)
            assert balance["authorized_nano_usd"] == balance["consented_nano_usd"] == "0"
            (why,) = [
                one
                for one in balance["unavailable"]
                if "allowance" in one["reason"] or one["amount_nano_usd"]
            ]
            assert int(why["amount_nano_usd"]) == USD - 50_000_000
            assert why["release_by"]

        def consent(amount: int, signer: SigningKey = wallet, **more: Any) -> httpx.Response:
            signature = "0x" + signer.sign_digest(consent_digest(domain, wallet.address, amount)).hex()
            return client.post("/v1/consents", json={"spent": str(amount), "signature": signature} | more)

        good = consent(spent, account=wallet.address)
        assert (good.status_code, good.json()["consented_nano_usd"]) == (200, str(spent))
        assert client.get("/v1/balance").json()["available_nano_usd"] == str(50_000_000)

        wrong = consent(spent + 5, SigningKey(os.urandom(32)))
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "wrong_signer")
        ahead = consent(spent + 1)
        assert (ahead.status_code, ahead.json()["error"]["code"]) == (400, "consent_beyond_spent")
        foreign = consent(spent, account="0x" + "11" * 20)
        assert (foreign.status_code, foreign.json()["error"]["param"]) == (400, "account")
        lower = consent(spent - 1)
        assert lower.json()["consented_nano_usd"] == str(spent)
        for text in ("-1", "1.5", "x", "9" * 30, ""):
            refused = client.post("/v1/consents", json={"spent": text, "signature": "0x00"})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "spent")


def test_beyond_the_allowance_a_wallet_must_sign(server: Server, visitor: httpx.Client) -> None:
    wallet = SigningKey(os.urandom(32))
    server.do(_deposit(server, wallet))
    token = sign_in(visitor, wallet, a_message(visitor, wallet)).json()["token"]
    with server.http(token) as client:
        answer = client.post(
            "/v1/completions",
            # Two hundred thousand characters are as many tokens of input.
            json={"model": "echo", "prompt": "x" * 10_000, "max_tokens": 20_000},
        )
        assert answer.status_code == 200
        for _ in range(30):
            answer = client.post(
                "/v1/completions", json={"model": "echo", "prompt": "x" * 10_000, "max_tokens": 20_000}
            )
            if answer.status_code != 200:
                break
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "consent_needed")
        assert answer.headers["x-should-retry"] == "false"
        assert server.account(_account_of(client)).spent <= 50_000_000


def test_an_account_on_credit_signs_no_consents(http: httpx.Client) -> None:
    answer = http.post("/v1/consents", json={"spent": "1", "signature": "0x" + "00" * 65})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_wallet")


def _account_of(client: httpx.Client) -> str:
    return str(client.get("/v1/account").json()["id"])


async def _deposit(server: Server, key: SigningKey) -> None:
    """Deposit a dollar, authorize nothing, and wait until the books know it."""
    import asyncio

    from sqlmodel import select

    from marketplace.storage.tables import Account
    from tallystick.evm import Wallet

    market = server.place.market
    await market.connection.rpc("anvil_setBalance", key.address, hex(10**20))
    await market.deposit(Wallet(market.connection, key), USD)
    async with asyncio.timeout(15):
        while True:
            found = await server.parts.database.read(
                lambda session: session.scalars(select(Account).where(Account.address == key.address)).first()
            )
            if found is not None and found.balance == USD:
                return
            await asyncio.sleep(0.05)
