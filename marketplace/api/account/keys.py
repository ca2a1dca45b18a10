"""API keys: made, listed, renamed, capped, revoked. A key is shown once, when it is made."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer, dollars, moment, plain, read_body
from marketplace.api.deps import AccountServices
from marketplace.api.repeats import once
from marketplace.domain.errors import BadRequest
from marketplace.services.keys import CreatedKey, KeyTerms, KeyView
from tallystick.protocol.money import NanoUsd, format_price, parse_price


class KeyBody(msgspec.Struct, kw_only=True):
    """A key's terms; what is not sent stays as it is. `cap_usd` null means no cap."""

    name: str | UnsetType = UNSET
    scope: str | UnsetType = UNSET
    cap_usd: str | None | UnsetType = UNSET
    max_input_price: str | None | UnsetType = UNSET
    max_output_price: str | None | UnsetType = UNSET


def key_routes(services: AccountServices) -> list[BaseRoute]:
    """Return the routes of `/v1/keys`."""

    async def create(request: Request) -> Response:
        caller = await services.gate.manager(request)
        terms = _terms(await read_body(request, KeyBody), KeyTerms())
        async with once(services.repeats, request, caller.account_id) as made:
            created = await services.keys.create_key(caller.account_id, terms)
            made("key/" + created.view.id)
        return answer(created_object(created), 201)

    async def list_all(request: Request) -> Response:
        caller = await services.gate.manager(request)
        found = await services.keys.list_keys(caller.account_id)
        return answer({"object": "list", "data": [key_object(view) for view in found]})

    async def change(request: Request) -> Response:
        caller = await services.gate.manager(request)
        body = await read_body(request, KeyBody)
        key_id = plain(request.path_params["key_id"], "key_id")
        before = await services.keys.find_key(caller.account_id, key_id)
        return answer(
            key_object(await services.keys.change_key(caller.account_id, key_id, _terms(body, before.terms)))
        )

    async def revoke(request: Request) -> Response:
        caller = await services.gate.manager(request)
        key_id = plain(request.path_params["key_id"], "key_id")
        return answer(key_object(await services.keys.revoke_key(caller.account_id, key_id)))

    return [
        Route("/v1/keys", create, methods=["POST"]),
        Route("/v1/keys", list_all, methods=["GET"]),
        Route("/v1/keys/{key_id}", change, methods=["PATCH"]),
        Route("/v1/keys/{key_id}", revoke, methods=["DELETE"]),
    ]


def key_object(view: KeyView) -> dict[str, Any]:
    """Return a key as its owner sees it; amounts in nano-dollars are strings."""
    terms = view.terms
    return {
        "id": view.id,
        "object": "api_key",
        "prefix": view.prefix,
        "name": terms.name,
        "scope": terms.scope,
        "cap_nano_usd": None if terms.cap is None else str(terms.cap),
        "spent_nano_usd": str(view.spent),
        "held_nano_usd": str(view.held),
        "max_input_price": _price_text(terms.max_input_price),
        "max_output_price": _price_text(terms.max_output_price),
        "created_at": moment(view.created_at),
        "last_used_at": None if view.last_used_at is None else moment(view.last_used_at),
        "revoked": view.revoked_at is not None,
    }


def created_object(created: CreatedKey) -> dict[str, Any]:
    """Return a new key with its secret."""
    return key_object(created.view) | {"key": created.secret}


def _terms(body: KeyBody, before: KeyTerms) -> KeyTerms:
    return KeyTerms(
        name=before.name if body.name is UNSET else plain(body.name, "name"),
        scope=before.scope if body.scope is UNSET else body.scope,
        cap=_cap(body.cap_usd, before.cap),
        max_input_price=_price(body.max_input_price, before.max_input_price, "max_input_price"),
        max_output_price=_price(body.max_output_price, before.max_output_price, "max_output_price"),
    )


def _cap(given: str | None | UnsetType, before: NanoUsd | None) -> NanoUsd | None:
    if given is UNSET:
        return before
    return None if given is None else dollars(given, "cap_usd")


def _price(given: str | None | UnsetType, before: NanoUsd | None, name: str) -> NanoUsd | None:
    if given is UNSET:
        return before
    if given is None:
        return None
    try:
        return parse_price(given)
    except ValueError as error:
        raise BadRequest(f"`{name}`: {error}.", param=name) from error


def _price_text(price: NanoUsd | None) -> str | None:
    return None if price is None else format_price(price)
