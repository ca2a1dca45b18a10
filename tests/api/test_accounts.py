"""Accounts by email: at once, by a mailed link; keys; balance."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.storage.tables import ApiKey
from tests.api.asking import ask
from tests.api.conftest import new_consumer
from tests.support.hubs import eventually
from tests.support.mails import mail_server
from tests.support.servers import Place, Server, a_server


def test_without_a_mail_server_an_account_opens_at_once(server: Server) -> None:
    told = new_consumer(server)
    assert re.fullmatch(r"tsk_[A-Za-z0-9_-]{43}", told["api_key"])
    assert re.fullmatch(r"tss_[A-Za-z0-9_-]{43}", told["token"])
    assert (told["credit_usd"], told["note"]) == ("1.00", None)
    assert told["key"]["prefix"] == told["api_key"][:12]
    with server.http(told["api_key"]) as client:
        account = client.get("/v1/account").json()
    assert (account["id"], account["kind"], account["address"]) == (told["account_id"], "email", None)


def test_an_address_has_one_account(server: Server) -> None:
    with server.http() as client:
        assert client.post("/v1/accounts", json={"email": "Twice@Example.com"}).status_code == 201
        again = client.post("/v1/accounts", json={"email": "twice@example.com "})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "account_exists")
        assert "tallystick account sign-in --email" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    "email", ["", "nobody", "a@b@c.com", "x" * 300 + "@example.com", "a@example.com\nBcc: b@c.d"]
)
def test_what_is_no_address_is_refused(server: Server, email: str) -> None:
    with server.http() as client:
        answer = client.post("/v1/accounts", json={"email": email})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "email")


def test_a_market_may_be_by_invitation(place: Place, folder: Path) -> None:
    with a_server(place, folder, with_node=False, open_sign_up=False) as server, server.http() as client:
        answer = client.post("/v1/accounts", json={"email": "a@example.com"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "sign_up_closed")


def test_a_treasury_that_cannot_cover_the_welcome_says_so(place: Place, folder: Path) -> None:
    with a_server(place, folder, with_node=False, signup_credit_usd="1000000") as server:
        told = new_consumer(server)
        assert told["credit_usd"] == "0.00"
        assert "cannot give" in told["note"]
        assert told["api_key"]


def test_with_a_mail_server_the_link_opens_the_account(place: Place, folder: Path) -> None:
    with (
        place.background.hold(mail_server()) as mails,
        a_server(place, folder, smtp_url=mails.url, mail_from="market@example.com") as server,
        server.http() as client,
    ):
        answer = client.post("/v1/accounts", json={"email": "carol@example.com"})
        assert (answer.status_code, answer.json()["status"]) == (202, "mail_sent")
        assert "api_key" not in answer.text
        link = mails.last_link()
        assert link.startswith(f"{server.url}/verify?token=tsv_")
        token = link.partition("token=")[2]

        page = client.get("/verify", params={"token": token})
        assert page.status_code == 200
        assert token not in page.text, "the page must not repeat what it is given"
        assert "script-src 'sha256-" in page.headers["content-security-policy"]
        opened = client.post("/v1/accounts/verify", json={"token": token})
        assert opened.status_code == 200
        assert opened.json()["credit_usd"] == "1.00"
        with server.openai(opened.json()["api_key"]) as consumer:
            assert ask(consumer, "hello").choices[0].message.content == "hello"

        again = client.post("/v1/accounts/verify", json={"token": token})
        assert (again.status_code, again.json()["error"]["code"]) == (401, "bad_link")

        # Whoever asks cannot tell whether there is such an account.
        known = client.post("/v1/accounts", json={"email": "carol@example.com"})
        assert (known.status_code, known.json()) == (answer.status_code, answer.json())
        sign_in = mails.last_link().partition("token=")[2]
        signed_in = client.post("/v1/accounts/verify", json={"token": sign_in}).json()
        assert signed_in["account_id"] == opened.json()["account_id"]
        assert "api_key" not in signed_in
        assert signed_in["credit_usd"] == "0.00"

        sent = len(mails.taken)
        stranger = client.post("/v1/sessions/email", json={"email": "nobody@example.com"})
        here = client.post("/v1/sessions/email", json={"email": "carol@example.com"})
        assert (stranger.status_code, stranger.json()) == (here.status_code, here.json())
        server.do(eventually(lambda: len(mails.taken) > sent))
        assert [b"carol@example.com" in mail for mail in mails.taken[sent:]] == [True]


def test_a_mail_server_that_is_gone_says_to_come_back(place: Place, folder: Path) -> None:
    with (
        a_server(place, folder, with_node=False, smtp_url="smtp://127.0.0.1:1") as server,
        server.http() as client,
    ):
        answer = client.post("/v1/accounts", json={"email": "carol@example.com"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        # A sign-in says nothing of it: only those with an account would be told.
        assert client.post("/v1/sessions/email", json={"email": "carol@example.com"}).status_code == 202


def test_a_session_ends_when_it_is_signed_out(server: Server, consumer: dict[str, Any]) -> None:
    with server.http(consumer["token"]) as client:
        assert client.get("/v1/balance").status_code == 200
        assert client.delete("/v1/sessions").status_code == 200
        assert client.get("/v1/balance").status_code == 401


def test_a_key_is_made_listed_changed_and_revoked(http: httpx.Client, server: Server) -> None:
    terms = {"name": "laptop", "scope": "inference", "cap_usd": "0.50", "max_input_price": "1.5"}
    made = http.post("/v1/keys", json=terms)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    secret = key.pop("key")
    assert (key["name"], key["scope"], key["cap_nano_usd"]) == ("laptop", "inference", "500000000")
    assert (key["max_input_price"], key["max_output_price"], key["revoked"]) == ("1.50", None, False)

    listed = {one["id"]: one for one in http.get("/v1/keys").json()["data"]}
    assert len(listed) == 2
    assert listed[key["id"]] == key
    assert secret not in http.get("/v1/keys").text

    changed = http.patch(f"/v1/keys/{key['id']}", json={"name": "desk", "cap_usd": None}).json()
    assert (changed["name"], changed["cap_nano_usd"], changed["scope"]) == ("desk", None, "inference")
    assert changed["max_input_price"] == "1.50"

    assert http.delete(f"/v1/keys/{key['id']}").json()["revoked"] is True
    assert http.patch(f"/v1/keys/{key['id']}", json={"name": "x"}).status_code == 404
    with server.http(secret) as client:
        assert client.get("/v1/models").status_code == 401


def test_a_key_is_stored_as_a_hash(server: Server, consumer: dict[str, Any]) -> None:
    row = server.read(lambda session: session.get(ApiKey, consumer["key"]["id"]))
    assert row is not None
    stored = repr(row.model_dump())
    assert consumer["api_key"] not in stored
    assert consumer["api_key"][16:] not in stored


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"scope": "admin"}, "scope"),
        ({"name": "x" * 101}, "name"),
        ({"cap_usd": "-1"}, "cap_usd"),
        ({"cap_usd": "a lot"}, "cap_usd"),
        ({"cap_usd": "99999999999999"}, "cap_usd"),
        ({"cap_usd": "0.0000000001"}, "cap_usd"),
        ({"max_output_price": "0.00001"}, "max_output_price"),
    ],
)
def test_terms_that_make_no_sense_are_refused(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_key_that_only_runs_jobs_manages_nothing(server: Server, consumer: dict[str, Any]) -> None:
    with server.http(consumer["api_key"]) as owner:
        key = owner.post("/v1/keys", json={"scope": "inference"}).json()
    with server.http(key["key"]) as client, server.openai(key["key"]) as user:
        assert ask(user, "hello").choices[0].message.content == "hello"
        for method, path in (
            ("POST", "/v1/keys"),
            ("GET", "/v1/keys"),
            ("PATCH", f"/v1/keys/{key['id']}"),
            ("DELETE", f"/v1/keys/{key['id']}"),
        ):
            answer = client.request(method, path, json={} if method in ("POST", "PATCH") else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "key_scope")
        assert client.get("/v1/balance").status_code == 200


def test_keys_of_others_are_not_there(server: Server, http: httpx.Client) -> None:
    foreign = new_consumer(server)["key"]["id"]
    assert http.delete(f"/v1/keys/{foreign}").status_code == 404
    assert http.patch(f"/v1/keys/{foreign}", json={"name": "mine"}).status_code == 404


def test_a_cap_holds_over_several_requests(server: Server, consumer: dict[str, Any]) -> None:
    """A cap of one hold and a half: the first call spends less than its hold, until no hold fits any more."""
    prompt, most = len("user: hello\nassistant: "), 10
    hold, cost = (prompt + most) * 300, (prompt + 6) * 300
    with server.http(consumer["api_key"]) as owner:
        cap = f"0.{hold + cost:09d}"
        key = owner.post("/v1/keys", json={"cap_usd": cap}).json()
        with server.openai(key["key"]) as client:
            ask(client, "hello", max_tokens=most)
            ask(client, "hello", max_tokens=most)
            with pytest.raises(Exception, match="left under this key's cap"):
                ask(client, "hello", max_tokens=most)
        listed = {one["id"]: one for one in owner.get("/v1/keys").json()["data"]}
        assert listed[key["id"]]["spent_nano_usd"] == str(2 * cost)
        assert listed[key["id"]]["held_nano_usd"] == "0"


def test_the_balance_shows_every_amount_as_a_string(
    server: Server, http: httpx.Client, consumer: dict[str, Any]
) -> None:
    with server.openai(consumer["api_key"]) as client:
        cost = int(ask(client, "hello").to_dict()["tallystick"]["charge_nano_usd"])  # type: ignore[index,call-overload]
    told = http.get("/v1/balance").json()
    assert told["account_id"] == consumer["account_id"]
    assert told["deposited_nano_usd"] == "1000000000"
    assert told["spent_nano_usd"] == str(cost)
    assert told["balance_nano_usd"] == told["available_nano_usd"] == str(1_000_000_000 - cost)
    assert told["held_nano_usd"] == told["requested_nano_usd"] == "0"
    assert told["unavailable"] == []
