"""`/v1/market`, `/v1/nodes`, `/v1/operators/{address}`: who is here, on which terms, and what is owed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer
from marketplace.api.deps import Gate
from marketplace.domain.errors import BadRequest
from marketplace.domain.ports.link import NodeView, ProviderLink
from marketplace.services.balances import Balances
from marketplace.services.catalog import Catalog
from tallystick.deployment import Deployment
from tallystick.protocol.ids import to_address, to_hex
from tallystick.protocol.money import format_price


@dataclass(frozen=True, slots=True)
class MarketTerms:
    """What does not change while the coordinator runs. `is_local` shows the chain's RPC to everybody;
    `accepts_jobs` is False before a move to other contracts."""

    deployment: Deployment
    rpc_url: str
    fee_bps: int
    is_local: bool
    accepts_jobs: bool = True


def market_routes(
    gate: Gate,
    terms: MarketTerms,
    link: ProviderLink,
    catalog: Catalog,
    balances: Balances,
    now_seconds: Callable[[], int],
) -> list[BaseRoute]:
    """Return the routes."""

    async def market(request: Request) -> Response:
        gate.stranger(request)
        return answer(market_object(terms, now_seconds()))

    async def nodes(request: Request) -> Response:
        gate.stranger(request)
        return answer({"object": "list", "data": [node_object(node, catalog) for node in link.nodes()]})

    async def operator(request: Request) -> Response:
        gate.stranger(request)
        try:
            address = to_address(request.path_params["address"])
        except ValueError as error:
            raise BadRequest(f"{error}", param="address") from error
        found = await balances.operator_statement(address)
        return answer(
            {
                "object": "operator",
                "address": found.address,
                "pending_nano_usd": str(found.pending),
                "matured_nano_usd": str(found.earned),
                "acknowledged_nano_usd": str(found.acknowledged),
                "acknowledged_epoch": found.acknowledged_epoch,
                "settled_nano_usd": str(found.settled),
            }
        )

    return [
        Route("/v1/market", market, methods=["GET"]),
        Route("/v1/nodes", nodes, methods=["GET"]),
        Route("/v1/operators/{address}", operator, methods=["GET"]),
    ]


def market_object(terms: MarketTerms, now: int) -> dict[str, Any]:
    """Return where the market's contracts are, its share, and its epochs (`now` in seconds)."""
    place = terms.deployment
    epoch = place.epoch_at(now)
    told: dict[str, Any] = {
        "object": "market",
        "chain_id": place.chain_id,
        "contracts": {"ledger": place.ledger, "stake": place.stake, "token": place.token},
        "coordinator": place.coordinator,
        "treasury": place.owner,
        "fee_bps": terms.fee_bps,
        "local": terms.is_local,
        "accepts_jobs": terms.accepts_jobs,
        "epoch": {
            "number": epoch,
            "length_seconds": place.epoch_length,
            "ends_at": place.genesis + (epoch + 1) * place.epoch_length,
        },
    }
    if terms.is_local:
        told["rpc_url"] = terms.rpc_url
    return told


def node_object(node: NodeView, catalog: Catalog) -> dict[str, Any]:
    """Return a connected node: its stake's word, its load, and its prices in USD per million tokens."""
    models = []
    for model_id, ask in node.asks.items():
        model = catalog.by_id(model_id)
        if model is not None:
            models.append(
                {
                    "name": model.name,
                    "model_id": to_hex(model_id),
                    "input_price": format_price(ask.input_price),
                    "output_price": format_price(ask.output_price),
                    "slots": ask.slots,
                    "paused": ask.paused,
                }
            )
    return {
        "node": node.address,
        "operator": node.operator,
        "region": node.region,
        "hardware": node.hardware,
        "eligible": node.eligible,
        "draining": node.draining,
        "running": node.running,
        "success": round(node.success, 4),
        "tokens_per_second": round(node.tokens_per_second, 1),
        "models": models,
    }
