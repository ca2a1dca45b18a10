"""`/v1/receipts`: an account's own; a settled one is public, since its epoch's file is."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer, count, hex_bytes, moment
from marketplace.api.deps import Gate
from marketplace.domain.errors import NotFound
from marketplace.services.receipts import ReceiptBook, ReceiptView
from marketplace.services.settlement.proofs import Inclusion
from tallystick.protocol.ids import to_hex
from tallystick.protocol.rendering import receipt_to_json

MOST: Final = 100
DEFAULT: Final = 20


def receipt_routes(gate: Gate, book: ReceiptBook) -> list[BaseRoute]:
    """Return the routes of `/v1/receipts`."""

    async def one(request: Request) -> Response:
        receipt_id = hex_bytes(request.path_params["receipt_id"], "receipt_id")
        if "authorization" not in request.headers:
            gate.stranger(request)
            found = await book.find(receipt_id)
            if found.status != "settled":
                raise NotFound(
                    f"There is no settled receipt {to_hex(receipt_id)}; send a key to see your own."
                )
        else:
            caller = await gate.caller(request)
            found = await book.find(receipt_id)
            if found.status != "settled" and found.account_id != caller.account_id:
                raise NotFound(f"There is no receipt {to_hex(receipt_id)} of yours.")
        return answer(receipt_object(found, await book.inclusion(found)))

    async def several(request: Request) -> Response:
        caller = await gate.caller(request)
        limit = count(request.query_params.get("limit", str(DEFAULT)), "limit", least=1, most=MOST)
        after = request.query_params.get("after")
        start = None if after is None else hex_bytes(after, "after")
        found = list(await book.of_account(caller.account_id, after=start, limit=limit + 1))
        shown = [receipt_object(view, None) for view in found[:limit]]
        return answer({"object": "list", "data": shown, "has_more": len(found) > limit})

    return [
        Route("/v1/receipts", several, methods=["GET"]),
        Route("/v1/receipts/{receipt_id}", one, methods=["GET"]),
    ]


def receipt_object(view: ReceiptView, inclusion: Inclusion | None) -> dict[str, Any]:
    """Return a receipt with its signature, its charge, where it stands and, once settled, the proof."""
    told: dict[str, Any] = {
        "id": to_hex(view.id),
        "object": "receipt",
        "status": view.status,
        "charge_nano_usd": str(view.charge if view.paid_by_consumer else 0),
        "fee_nano_usd": str(view.fee),
        "taken_at": moment(view.taken_at),
        **receipt_to_json(view.signed),
    }
    if view.taken_signature:
        told["taken"] = {"epoch": view.taken_epoch, "signature": to_hex(view.taken_signature)}
    if inclusion is not None:
        told["inclusion"] = {
            "epoch": inclusion.epoch,
            "root": to_hex(inclusion.root),
            "count": inclusion.proof.count,
            "index": inclusion.proof.index,
            "siblings": [to_hex(one) for one in inclusion.proof.siblings],
        }
    return told
