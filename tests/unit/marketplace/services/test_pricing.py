"""The most that a job can cost."""

from hypothesis import given
from hypothesis import strategies as st

from marketplace.services.pricing import worst_case
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters


def test_the_worst_case_is_the_prompt_and_the_longest_answer() -> None:
    assert worst_case(20, Parameters(max_tokens=100), NanoUsd(300), NanoUsd(500)) == 20 * 300 + 100 * 500


@given(
    prompt=st.integers(0, 10**6),
    limit=st.integers(1, 10**6),
    made=st.integers(0, 10**6),
    prices=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_no_answer_within_its_limit_costs_more(
    prompt: int, limit: int, made: int, prices: tuple[int, int]
) -> None:
    most = worst_case(prompt, Parameters(max_tokens=limit), NanoUsd(prices[0]), NanoUsd(prices[1]))
    assert prompt * prices[0] + min(made, limit) * prices[1] <= most
