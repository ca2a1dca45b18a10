"""The account itself: who it is, what it has, and the consents that it signs."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer, hex_bytes, moment, read_body, whole
from marketplace.api.deps import AccountServices
from marketplace.domain.errors import BadRequest
from marketplace.services.balances import BalanceStatement
from tallystick.protocol.money import NanoUsd, format_usd


class ConsentBody(msgspec.Struct):
    """`Consent(account, spent)` with its signature; `spent` in nano-dollars, as a string."""

    spent: str
    signature: str
    account: str | None = None


def money_routes(services: AccountServices) -> list[BaseRoute]:
    """Return the routes of `/v1/account`, `/v1/balance` and `/v1/consents`."""

    async def account(request: Request) -> Response:
        caller = await services.gate.caller(request)
        told = {"id": caller.account_id, "kind": caller.kind, "scope": caller.scope, "address": None}
        if caller.kind == "wallet":
            told["address"] = caller.payer
        return answer(told)

    async def balance(request: Request) -> Response:
        caller = await services.gate.caller(request)
        return answer(balance_object(await services.balances.statement(caller.account_id)))

    async def consent(request: Request) -> Response:
        caller = await services.gate.caller(request)
        body = await read_body(request, ConsentBody)
        if body.account is not None and body.account.lower() != caller.payer:
            raise BadRequest(
                f"The consent is for {body.account}, this key's account is {caller.payer}.", param="account"
            )
        consented = await services.consents.store(
            caller.account_id, whole(body.spent, "spent"), hex_bytes(body.signature, "signature")
        )
        return answer({"consented_nano_usd": str(consented), "consented_usd": format_usd(consented)})

    return [
        Route("/v1/account", account, methods=["GET"]),
        Route("/v1/balance", balance, methods=["GET"]),
        Route("/v1/consents", consent, methods=["POST"]),
    ]


def balance_object(statement: BalanceStatement) -> dict[str, Any]:
    """Return a balance; for each amount that is not available why, until when, and what releases it."""
    told: dict[str, Any] = {
        "object": "balance",
        "account_id": statement.account_id,
        "kind": statement.kind,
        "address": statement.address,
        "available_usd": format_usd(statement.available),
    }
    for name in (
        "deposited",
        "withdrawn",
        "spent",
        "settled",
        "balance",
        "held",
        "requested",
        "authorized",
        "consented",
        "available",
    ):
        amount: NanoUsd = getattr(statement, name)
        told[f"{name}_nano_usd"] = str(amount)
    told["unavailable"] = [
        {
            "amount_nano_usd": str(one.amount),
            "reason": one.reason,
            "until": None if one.until is None else moment(one.until),
            "release_by": one.release_by,
        }
        for one in statement.unavailable
    ]
    return told
