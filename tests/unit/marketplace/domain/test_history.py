"""Nodes' records: averages, and rests after failures."""

from marketplace.domain.history import LIE_REST_MS, LONGEST_REST_MS, History, NodeHistory
from tallystick.protocol.ids import Address


def test_a_new_node_has_the_benefit_of_the_doubt() -> None:
    record = History().of(Address("0x" + "01" * 20))
    assert (record.success, record.rests_until_ms) == (1.0, 0)


def test_a_book_gives_the_same_record_again() -> None:
    book, node = History(), Address("0x" + "01" * 20)
    book.of(node).failed_at(0)
    assert book.of(node).failed == 1


def test_the_first_job_sets_the_averages_and_later_ones_move_them() -> None:
    record = NodeHistory()
    record.succeeded(first_token_ms=100, tokens=20, elapsed_ms=1000)
    assert (record.first_token_ms, record.tokens_per_second) == (100.0, 20.0)
    record.succeeded(first_token_ms=200, tokens=40, elapsed_ms=1000)
    assert (record.first_token_ms, record.tokens_per_second) == (110.0, 22.0)


def test_each_failure_in_a_row_doubles_the_rest_up_to_a_minute() -> None:
    record = NodeHistory()
    rests = []
    for _ in range(8):
        record.failed_at(0)
        rests.append(record.rests_until_ms)
    assert rests == [1000, 2000, 4000, 8000, 16000, 32000, LONGEST_REST_MS, LONGEST_REST_MS]
    assert record.success < 0.5


def test_a_success_ends_the_row_of_failures() -> None:
    record = NodeHistory()
    record.failed_at(0)
    record.failed_at(0)
    record.succeeded(first_token_ms=1, tokens=1, elapsed_ms=0)
    record.failed_at(10_000)
    assert record.rests_until_ms == 11_000


def test_a_lie_means_a_long_rest_that_no_failure_shortens() -> None:
    record = NodeHistory()
    record.lied_at(0)
    record.failed_at(0)
    assert record.rests_until_ms == LIE_REST_MS


def test_a_wrong_refusal_counts_and_means_no_rest() -> None:
    record = NodeHistory()
    record.refused_wrongly()
    assert (record.failed, record.success, record.rests_until_ms) == (1, 0.9, 0)
    record.failed_at(0)
    assert record.rests_until_ms == 1000


def test_what_was_stored_is_not_stored_again() -> None:
    record = NodeHistory()
    record.succeeded(first_token_ms=1, tokens=1, elapsed_ms=0)
    record.failed_at(0)
    assert record.unsaved() == (1, 1)
    assert record.unsaved() == (0, 0)
    record.failed_at(0)
    assert record.unsaved() == (0, 1)
