"""Which node is chosen, and which never is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.domain.ports.link import Ask, NodeView
from marketplace.domain.routing import Ranking, Standing, Wanted, rank
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd

MODEL = ModelId(b"m" * 32)
WANTED = Wanted(MODEL, prompt_tokens=100, output_tokens=100)


def an_address(number: int) -> Address:
    return Address(f"0x{number:040x}")


def a_node(number: int = 1, **changes: Any) -> NodeView:
    ask: dict[str, Any] = {"input_price": 300, "output_price": 300, "slots": 4, "paused": False}
    ask |= {name: changes.pop(name) for name in list(changes) if name in ask}
    fields: dict[str, Any] = {
        "address": an_address(number),
        "operator": an_address(1000 + number),
        "region": "",
        "hardware": "",
        "asks": {MODEL: Ask(**ask)},
        "running": 0,
        "draining": False,
        "eligible": True,
        "success": 1.0,
        "first_token_ms": 100.0,
        "tokens_per_second": 10.0,
        "connected_at_ms": 1,
    }
    return NodeView(**(fields | changes))


def ranked(
    *nodes: NodeView, wanted: Wanted = WANTED, loads: dict[int, int] | None = None, **options: Any
) -> Ranking:
    given_loads = {an_address(number): load for number, load in (loads or {}).items()}
    return rank(
        nodes,
        wanted,
        standing=options.pop("standing", lambda node: Standing(given_loads.get(node, 0))),
        chance=lambda: 0.5,
        **options,
    )


def numbers(ranking: Ranking) -> list[int]:
    return [int(node.address, 16) for node in ranking.free]


@pytest.mark.parametrize(
    "node",
    [
        a_node(eligible=False),
        a_node(draining=True),
        a_node(paused=True),
        a_node(slots=0),
        a_node(asks={}),
    ],
)
def test_a_node_that_cannot_serve_is_never_chosen(node: NodeView) -> None:
    assert ranked(node) == Ranking((), 0)


def test_a_price_cap_excludes_and_its_own_price_does_not() -> None:
    capped = Wanted(MODEL, 1, 1, max_input_price=NanoUsd(300), max_output_price=NanoUsd(400))
    assert numbers(ranked(a_node(1, output_price=400), wanted=capped)) == [1]
    assert numbers(ranked(a_node(1, output_price=401), wanted=capped)) == []
    assert numbers(ranked(a_node(1, input_price=301), wanted=capped)) == []


def test_a_region_that_is_wished_for_excludes_others() -> None:
    nodes = (a_node(1, region="eu"), a_node(2, region="us"), a_node(3))
    assert numbers(ranked(*nodes, wanted=Wanted(MODEL, 1, 1, region="eu"))) == [1]
    assert len(ranked(*nodes).free) == 3


def test_a_node_is_full_when_its_slots_are_given_away() -> None:
    assert ranked(a_node(1, slots=2), loads={1: 2}) == Ranking((), 1)
    assert numbers(ranked(a_node(1, slots=2), loads={1: 1})) == [1]


def test_a_node_that_had_its_chance_is_left_out_until_it_connects_anew() -> None:
    tried = {(an_address(1), 1)}
    assert numbers(ranked(a_node(1), a_node(2), tried=tried)) == [2]
    assert numbers(ranked(a_node(1, connected_at_ms=2), tried=tried)) == [1]


def test_the_cheaper_of_two_like_nodes_is_first() -> None:
    assert numbers(ranked(a_node(1, output_price=400), a_node(2))) == [2, 1]


def test_the_less_loaded_of_two_like_nodes_is_first() -> None:
    assert numbers(ranked(a_node(1), a_node(2), loads={1: 3})) == [2, 1]


def test_the_quicker_of_two_like_nodes_is_first() -> None:
    assert numbers(ranked(a_node(1, first_token_ms=3000.0), a_node(2))) == [2, 1]


def test_the_more_reliable_of_two_like_nodes_is_first_even_if_dearer() -> None:
    assert numbers(ranked(a_node(1, success=0.5), a_node(2, output_price=330))) == [2, 1]


def test_a_node_at_rest_is_taken_only_when_nobody_else_is_there() -> None:
    def standing(node: Address) -> Standing:
        return Standing(rests=node == an_address(1))

    assert numbers(ranked(a_node(1), a_node(2, output_price=900), standing=standing)) == [2, 1]
    assert numbers(ranked(a_node(1), standing=standing)) == [1]


def test_chance_decides_between_equals() -> None:
    chances = iter([0.9, 0.1])
    ranking = rank(
        [a_node(1), a_node(2)], WANTED, standing=lambda _: Standing(), chance=lambda: next(chances)
    )
    assert numbers(ranking) == [2, 1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda number, price, slots, load, paused, draining: (
                a_node(number, output_price=price, slots=slots, paused=paused, draining=draining),
                load,
            ),
            st.integers(1, 50),
            st.integers(0, 1000),
            st.integers(0, 5),
            st.integers(0, 5),
            st.booleans(),
            st.booleans(),
        ),
        unique_by=lambda entry: entry[0].address,
        max_size=12,
    ),
    st.integers(0, 1000),
)
def test_whoever_is_chosen_fits_and_nobody_who_fits_is_forgotten(
    entries: list[tuple[NodeView, int]], cap: int
) -> None:
    loads = {node.address: load for node, load in entries}
    wanted = Wanted(MODEL, 10, 10, max_output_price=NanoUsd(cap))
    ranking = rank(
        [node for node, _ in entries], wanted, standing=lambda one: Standing(loads[one]), chance=lambda: 0.0
    )
    fits = {
        node.address
        for node, load in entries
        if not node.draining
        and not node.asks[MODEL].paused
        and node.asks[MODEL].output_price <= cap
        and load < node.asks[MODEL].slots
    }
    assert {node.address for node in ranking.free} == fits
    assert len(ranking.free) == len(fits)
