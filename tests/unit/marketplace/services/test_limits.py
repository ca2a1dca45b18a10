"""Buckets let a burst through, then as much as flows in."""

import pytest

from marketplace.domain.errors import TooFast
from marketplace.domain.places import network_of
from marketplace.services.limits import MOST_BUCKETS, LimitRules, Limits, Rate

RULES = LimitRules(key=Rate(60, 3), address=Rate(30, 1), sign_up=Rate(0, 0))


class Stopwatch:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def limits(watch: Stopwatch) -> Limits:
    return Limits(RULES, watch)


def test_a_burst_passes_and_the_next_one_waits(limits: Limits, watch: Stopwatch) -> None:
    assert [limits.check_key("a").remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(TooFast) as refused:
        limits.check_key("a")
    assert refused.value.retry_after == 1
    watch.seconds = 1.0
    limits.check_key("a")
    with pytest.raises(TooFast):
        limits.check_key("a")


def test_waiting_for_as_long_as_was_said_is_enough(limits: Limits, watch: Stopwatch) -> None:
    limits.check_address("10.0.0.1")
    watch.seconds = 0.7
    with pytest.raises(TooFast) as refused:
        limits.check_address("10.0.0.1")
    watch.seconds += refused.value.retry_after
    limits.check_address("10.0.0.1")


def test_a_full_bucket_holds_no_more_than_a_burst(limits: Limits, watch: Stopwatch) -> None:
    limits.check_key("a")
    watch.seconds = 1000.0
    assert limits.check_key("a").remaining == 2


def test_callers_do_not_share_a_bucket(limits: Limits) -> None:
    for _ in range(3):
        limits.check_key("a")
    assert limits.check_key("b").remaining == 2


def test_a_rate_of_zero_is_no_limit(limits: Limits) -> None:
    for _ in range(1000):
        limits.check_sign_up("10.0.0.1")


def test_buckets_of_strangers_do_not_fill_the_memory(limits: Limits) -> None:
    limits.check_key("first")
    for number in range(MOST_BUCKETS):
        limits.check_key(str(number))
    assert limits.check_key("first").remaining == 2


def test_all_addresses_of_one_line_are_one(limits: Limits) -> None:
    limits.check_address("2001:db8:1:2::1")
    for other in ("2001:db8:1:2:ffff::9", "2001:DB8:1:2::1%eth0"):
        with pytest.raises(TooFast):
            limits.check_address(other)
    limits.check_address("2001:db8:1:3::1")
    limits.check_address("203.0.113.7")
    with pytest.raises(TooFast):
        limits.check_address("::ffff:203.0.113.7")
    limits.check_address("203.0.113.8")


@pytest.mark.parametrize("text", ["", "unknown", "1.2.3", "x" * 1000, "::g"])
def test_what_is_no_address_counts_as_it_is(text: str) -> None:
    assert network_of(text) == text
