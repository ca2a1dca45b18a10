"""Which node should do a job: pure, from what the nodes say and how they have done."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from marketplace.domain.ports.link import Ask, NodeView
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd, TokenCount, charge

PRICE_WEIGHT = 2.0
"""A node that costs half as much again loses as much as one that is fully loaded."""
LOAD_WEIGHT = 1.0
LATENCY_WEIGHT = 0.2
"""Per second until the first token, up to five."""
FAILURE_WEIGHT = 4.0
REST_WEIGHT = 10.0
"""A node that rests after failures is taken only when nobody else is there."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job needs of a node. Prices are the most it may ask, in nano-dollars per token; None: any."""

    model_id: ModelId
    prompt_tokens: int
    output_tokens: int
    max_input_price: NanoUsd | None = None
    max_output_price: NanoUsd | None = None
    region: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the coordinator itself knows of a node: the jobs that it gave it, and whether it rests."""

    load: int = 0
    rests: bool = False


Tried = Collection[tuple[Address, int]]
"""Nodes that had their chance at a job, by address and the time of their connection: one that came back may
try again."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Nodes with a free slot, best first, and how many more would do but are full."""

    free: tuple[NodeView, ...]
    full: int


def rank(
    nodes: Iterable[NodeView],
    wanted: Wanted,
    *,
    standing: Callable[[Address], Standing],
    chance: Callable[[], float],
    tried: Tried = (),
) -> Ranking:
    """Return who may do the job, best first by price, load, latency and success.

    `chance` gives numbers in [0, 1); it spreads jobs over nodes that are otherwise alike.
    """
    suitable = [
        (node, ask)
        for node in nodes
        if (ask := node.asks.get(wanted.model_id)) is not None and can_serve(node, ask, wanted, tried)
    ]
    free = []
    for node, ask in suitable:
        stand = standing(node.address)
        if stand.load < ask.slots:
            free.append((node, ask, stand))
    full = len(suitable) - len(free)
    if len(free) <= 1:
        return Ranking(tuple(node for node, _, _ in free), full)
    cheapest = max(1, min(_cost(ask, wanted) for _, ask, _ in free))
    scored = sorted(
        ((_score(node, ask, stand, wanted, cheapest), chance(), node) for node, ask, stand in free),
        key=lambda entry: entry[:2],
    )
    return Ranking(tuple(node for _, _, node in scored), full)


def can_serve(node: NodeView, ask: Ask, wanted: Wanted, tried: Tried = ()) -> bool:
    """Say whether the node fits, apart from being full."""
    return (
        node.eligible
        and not node.draining
        and not ask.paused
        and ask.slots > 0
        and (wanted.max_input_price is None or ask.input_price <= wanted.max_input_price)
        and (wanted.max_output_price is None or ask.output_price <= wanted.max_output_price)
        and (not wanted.region or node.region == wanted.region)
        and (not tried or (node.address, node.connected_at_ms) not in tried)
    )


def _cost(ask: Ask, wanted: Wanted) -> int:
    given = charge(TokenCount(wanted.prompt_tokens), ask.input_price)
    return given + charge(TokenCount(wanted.output_tokens), ask.output_price)


def _score(node: NodeView, ask: Ask, stand: Standing, wanted: Wanted, cheapest: int) -> float:
    dearer = _cost(ask, wanted) / cheapest - 1.0
    return (
        PRICE_WEIGHT * dearer
        + LOAD_WEIGHT * stand.load / ask.slots
        + LATENCY_WEIGHT * min(node.first_token_ms / 1000, 5.0)
        + FAILURE_WEIGHT * (1.0 - node.success)
        + REST_WEIGHT * stand.rests
    )
