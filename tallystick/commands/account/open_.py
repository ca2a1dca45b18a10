"""Opening an account: with an email and credit, or with a wallet and a deposit of one's own."""

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tallystick.commands.console import AsJson, facts, foreseen, show
from tallystick.commands.credentials import (
    home,
    key_from_file,
    load_wallet,
    passphrase,
    save_credentials,
    store_wallet,
)
from tallystick.commands.market import Api
from tallystick.protocol.ids import to_address, to_hex
from tallystick.protocol.keys import SigningKey
from tallystick.sdk.answers import TallystickError
from tallystick.signin import SignIn, personal_digest

app = typer.Typer()
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File with the wallet's passphrase (else TALLYSTICK_PASSPHRASE, or a prompt).",
    ),
]


@app.command("sign-up")
@foreseen(TallystickError)
def sign_up(
    email: Annotated[str, typer.Argument(help="Your email address.")], as_json: AsJson = False
) -> None:
    """Open an account on credit, by email.

    Example: tallystick account sign-up you@example.org
    """
    api = Api()
    told = api.call("POST", "/accounts", {"email": email})
    if told.get("api_key"):
        api.credentials.api_key = told["api_key"]
        save_credentials(api.credentials)
    show(told, as_json, _opened)


@app.command("verify")
@foreseen(TallystickError)
def verify(
    token: Annotated[str, typer.Argument(help="The token of the mailed link.")], as_json: AsJson = False
) -> None:
    """Confirm an email address with the token that was mailed to it; gives the first API key, or signs in.

    Example: tallystick account verify TOKEN
    """
    api = Api()
    told = api.call("POST", "/accounts/verify", {"token": token})
    if told.get("api_key"):
        api.credentials.api_key = told["api_key"]
    api.credentials.session = told["token"]
    save_credentials(api.credentials)
    show(told, as_json, _opened)


@app.command("create-wallet")
@foreseen(ValueError)
def create_wallet(
    key_file: Annotated[
        Path | None,
        typer.Option(help="Import the key that this file has in hex (-: standard input), not a new one."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a wallet: a key pair, encrypted on this machine. Nothing is sent anywhere.

    Example: tallystick account create-wallet
    """
    raw = secrets.token_bytes(32) if key_file is None else key_from_file(key_file)
    words = passphrase(passphrase_file, confirm=True)
    path = store_wallet(raw, words)
    show({"address": SigningKey(raw).address, "keystore": str(path)}, as_json, facts)


@app.command("wallet")
@foreseen()
def wallet(as_json: AsJson = False) -> None:
    """Show the wallet's address (no passphrase needed).

    Example: tallystick account wallet
    """
    path = home() / "wallet.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    address = to_address("0x" + stored["address"].removeprefix("0x")) if stored else None
    show({"address": address, "keystore": str(path) if stored else None}, as_json, facts)


@app.command("sign-in")
@foreseen(TallystickError)
def sign_in(
    email: Annotated[
        str, typer.Option("--email", help="Mail a link that signs in to this address's account instead.")
    ] = "",
    key_name: Annotated[str, typer.Option(help="Name of the API key that is made.")] = "command line",
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Sign in with the wallet (EIP-4361) and make an API key. The first time this opens the account.

    Example: tallystick account sign-in
    """
    api = Api()
    if email:
        told = api.call("POST", "/sessions/email", {"email": email})
        show(told | {"next": "tallystick account verify TOKEN, with the token in the mail"}, as_json, facts)
        return
    secret = load_wallet(passphrase(passphrase_file))
    session = _session(api, secret)
    made = api.call("POST", "/keys", {"name": key_name}, token=session["token"])
    api.credentials.api_key = made["key"]
    api.credentials.session = session["token"]
    save_credentials(api.credentials)
    show(
        {"account_id": session["account_id"], "address": session["address"], "api_key": made["key"]},
        as_json,
        facts,
    )


def _session(api: Api, secret: bytes) -> Any:
    asked = api.call("GET", "/sessions/nonce")
    message = SignIn(
        domain=asked["domain"],
        address=SigningKey(secret).address,
        uri=asked["uri"],
        chain_id=int(asked["chain_id"]),
        nonce=asked["nonce"],
        issued_at=datetime.now(UTC),
        expires_at=datetime.fromisoformat(asked["expires_at"]),
    ).text()
    signature = SigningKey(secret).sign_digest(personal_digest(message))
    return api.call("POST", "/sessions", {"message": message, "signature": to_hex(signature)})


def _opened(told: dict[str, Any]) -> Any:
    shown = {"account_id": told.get("account_id"), "api_key": told.get("api_key")}
    if told.get("credit_usd"):
        shown["credit"] = f"${told['credit_usd']}"
    if told.get("token") and not told.get("api_key"):
        shown["next"] = "tallystick account create-key NAME"
    elif not told.get("api_key"):
        shown["next"] = "tallystick account verify TOKEN, with the token that was mailed to you"
    return facts(shown)
