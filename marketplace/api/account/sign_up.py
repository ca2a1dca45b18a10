"""Opening an account by email, and signing in by wallet (EIP-4361)."""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.account.keys import created_object
from marketplace.api.bodies import answer, hex_bytes, moment, read_body
from marketplace.api.deps import AccountServices, bearer
from marketplace.domain.errors import NotAuthenticated
from marketplace.domain.ports.clock import Clock
from marketplace.services.accounts import SignedIn
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.money import format_usd
from tallystick.signin import BadSignIn, SignIn, parse_sign_in, personal_digest

SKEW_SECONDS: Final = 60
"""How far ahead a wallet's clock may be."""


class EmailBody(msgspec.Struct):
    """An email address."""

    email: str


class TokenBody(msgspec.Struct):
    """The token of a mailed link."""

    token: str


class SignInBody(msgspec.Struct):
    """A sign-in message and its `personal_sign` signature."""

    message: str
    signature: str


def sign_up_routes(
    services: AccountServices, *, address: str, chain_id: int, clock: Clock
) -> list[BaseRoute]:
    """Return the routes; `address` is this coordinator's own URL, which sign-in messages must name."""
    domain = urlsplit(address).netloc

    async def sign_up(request: Request) -> Response:
        services.gate.limits.check_sign_up(services.gate.address(request))
        body = await read_body(request, EmailBody)
        opened = await services.accounts.sign_up_email(body.email)
        if opened is None:
            return answer({"status": "mail_sent", "message": "Follow the link that was mailed to you."}, 202)
        return answer(_opened(opened), 201)

    async def verify(request: Request) -> Response:
        services.gate.stranger(request)
        body = await read_body(request, TokenBody)
        return answer(_opened(await services.accounts.verify_email(body.token)))

    async def mail_link(request: Request) -> Response:
        services.gate.limits.check_sign_up(services.gate.address(request))
        await services.accounts.request_sign_in((await read_body(request, EmailBody)).email)
        # The same answer whether or not there is such an account: who has one is nobody's business.
        return answer(
            {"status": "mail_sent", "message": "If there is such an account, a link was mailed."}, 202
        )

    async def nonce(request: Request) -> Response:
        services.gate.stranger(request)
        value, expires_at = await services.accounts.new_nonce()
        told = {"nonce": value, "domain": domain, "uri": address, "chain_id": chain_id}
        return answer(told | {"expires_at": moment(expires_at)})

    async def sign_in(request: Request) -> Response:
        services.gate.stranger(request)
        body = await read_body(request, SignInBody)
        message = check_sign_in(
            body.message, hex_bytes(body.signature, "signature"), domain, chain_id, clock.now_ms() // 1000
        )
        signed_in = await services.accounts.sign_in_wallet(message.address, message.nonce)
        return answer(_session(signed_in) | {"address": message.address})

    async def sign_out(request: Request) -> Response:
        services.gate.stranger(request)
        await services.accounts.sign_out(bearer(request))
        return answer({"signed_out": True})

    return [
        Route("/v1/accounts", sign_up, methods=["POST"]),
        Route("/v1/accounts/verify", verify, methods=["POST"]),
        Route("/v1/sessions/nonce", nonce, methods=["GET"]),
        Route("/v1/sessions/email", mail_link, methods=["POST"]),
        Route("/v1/sessions", sign_in, methods=["POST"]),
        Route("/v1/sessions", sign_out, methods=["DELETE"]),
    ]


def check_sign_in(text: str, signature: bytes, domain: str, chain_id: int, now: int) -> SignIn:
    """Return a sign-in message that is for this market, in time, and signed by the address it names.

    `now` is in seconds since 1970. Whether its nonce is fresh is seen when it is used up.
    Raises NotAuthenticated saying what is wrong.
    """
    try:
        message = parse_sign_in(text)
        signer = recover(personal_digest(text), signature)
    except (BadSignIn, BadSignature) as error:
        raise NotAuthenticated(f"The sign-in is not valid: {error}.", code="bad_sign_in") from error
    time = datetime.fromtimestamp(now, UTC)
    wrong = {
        f"it is signed by {signer}, not by {message.address}": signer != message.address,
        f"it is for {message.domain}, this is {domain}": message.domain != domain,
        f"it is for chain {message.chain_id}, this market is on {chain_id}": message.chain_id != chain_id,
        f"its version is {message.version}, only 1 is known": message.version != "1",
        "it has no expiration time": message.expires_at is None,
        "it has expired": message.expires_at is not None and message.expires_at <= time,
        "it is not valid yet": message.not_before is not None and message.not_before > time,
        "it was issued in the future": message.issued_at.timestamp() > now + SKEW_SECONDS,
    }
    for why, is_so in wrong.items():
        if is_so:
            raise NotAuthenticated(f"The sign-in is refused: {why}.", code="bad_sign_in")
    return message


def _session(signed_in: SignedIn) -> dict[str, Any]:
    return {
        "token": signed_in.session,
        "account_id": signed_in.account_id,
        "expires_at": moment(signed_in.expires_at),
    }


def _opened(opened: SignedIn) -> dict[str, Any]:
    told = _session(opened) | {"credit_usd": format_usd(opened.credit), "note": opened.note or None}
    if opened.key is not None:
        told |= {"api_key": opened.key.secret, "key": created_object(opened.key)}
    return told
