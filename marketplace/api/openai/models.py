"""`GET /v1/models` and `GET /v1/models/{id}`."""

from collections.abc import Iterable
from typing import Any

from marketplace.domain.catalog import CatalogModel
from marketplace.domain.ports.link import NodeView
from tallystick.protocol.ids import to_hex
from tallystick.protocol.money import NanoUsd, format_price


def model_object(
    model: CatalogModel, nodes: Iterable[NodeView], *, called: str | None = None
) -> dict[str, Any]:
    """Return a model as OpenAI's clients read it, and what this market knows of it beside.

    `called` is the alias it was asked for by. Prices are the lowest that live nodes ask, in USD per million
    tokens.
    """
    asks = [node.asks[model.id] for node in nodes if model.id in node.asks and node.eligible]
    return {
        "id": called or model.name,
        "object": "model",
        "created": model.admitted_at_ms // 1000,
        "owned_by": "tallystick",
        "tallystick": {
            "model_id": to_hex(model.id),
            "name": model.name,
            "numerics": model.manifest.numerics,
            "context_length": model.context_length,
            "nodes": len(asks),
            "input_price": _lowest(ask.input_price for ask in asks),
            "output_price": _lowest(ask.output_price for ask in asks),
        },
    }


def _lowest(prices: Iterable[NanoUsd]) -> str | None:
    lowest = min(prices, default=None)
    return None if lowest is None else format_price(lowest)
