"""Money is whole nano-dollars, and says so when a text is something else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol.money import (
    MAX_NANO,
    NanoUsd,
    TokenCount,
    TokenUnits,
    charge,
    format_price,
    format_usd,
    from_units,
    market_fee_up,
    parse_price,
    parse_usd,
    to_units_down,
)

amounts = st.integers(-MAX_NANO, MAX_NANO).map(NanoUsd)
positive = st.integers(0, MAX_NANO).map(NanoUsd)


@settings(max_examples=300)
@given(amounts)
def test_a_formatted_amount_parses_to_itself(amount: NanoUsd) -> None:
    assert parse_usd(format_usd(amount)) == amount


@settings(max_examples=200)
@given(st.integers(0, 10**9).map(NanoUsd))
def test_a_formatted_price_parses_to_itself(price: NanoUsd) -> None:
    assert parse_price(format_price(price)) == price


@settings(max_examples=300)
@given(positive, st.integers(0, 10_000))
def test_a_fee_is_rounded_up_by_less_than_one_and_never_exceeds_the_amount(amount: NanoUsd, bps: int) -> None:
    fee = market_fee_up(amount, bps)
    assert 0 <= fee * 10_000 - amount * bps < 10_000
    assert fee <= amount


@settings(max_examples=200)
@given(positive)
def test_units_are_rounded_down_and_the_rest_stays(amount: NanoUsd) -> None:
    units = to_units_down(amount)
    assert 0 <= amount - from_units(units) < 1000
    assert to_units_down(from_units(units)) == units


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("1.25", 1_250_000_000),
        ("$0.0003", 300_000),
        (" 7 ", 7_000_000_000),
        ("-0.000000001", -1),
        ("9223372036.854775807", MAX_NANO),
    ],
)
def test_dollars_are_read_exactly(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "1e9",
        "1e999999",
        "NaN",
        "Infinity",
        "1_000",
        "１",
        "1,5",
        "0.0000000001",
        "1.00000000000000000000000000001",
        "9223372036.854775808",
        "9" * 50,
    ],
)
def test_what_is_not_an_exact_amount_of_dollars_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_usd(text)


def test_a_price_beyond_the_highest_is_refused() -> None:
    assert parse_price("1000000") == 10**9
    with pytest.raises(ValueError, match="highest"):
        parse_price("1000000.001")


@pytest.mark.parametrize("text", ["-0.30", "0.0001", "0.3005"])
def test_a_price_between_the_steps_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="steps"):
        parse_price(text)


def test_a_price_per_million_is_nano_dollars_per_token() -> None:
    assert parse_price("0.30") == 300
    assert charge(TokenCount(1_000_000), parse_price("0.30")) == parse_usd("0.30")
    assert from_units(TokenUnits(1)) == 1000
