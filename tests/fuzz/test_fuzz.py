"""20,000 damaged samples, the same in every run; `scripts/bench fuzz` runs a million and any seed."""

from collections.abc import Iterator

import pytest

from tests.fuzz import files
from tests.fuzz.bodies import Door, an_open_door
from tests.fuzz.driver import Outcome, Parser, run
from tests.fuzz.parsers import PARSERS

CASES = 20_000
HTTP_CASES = 1_600
SEED = 1


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    files.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """The application for all tests here; at the end its books must add up."""
    with an_open_door() as door:
        yield door
        door.check_money()


@pytest.mark.parametrize("parser", PARSERS, ids=[parser.name for parser in PARSERS])
def test_damage_is_refused_in_the_documented_way(parser: Parser) -> None:
    whole = sum(one.weight for one in PARSERS)
    check(run(parser, SEED, -(-(CASES - HTTP_CASES) * parser.weight // whole)))


@pytest.mark.slow
@pytest.mark.anvil
@pytest.mark.parametrize("place", range(4), ids=["chat", "completion", "account", "paths"])
def test_damaged_requests_get_an_answer_and_move_no_money_wrongly(door: Door, place: int) -> None:
    check(run(door.parsers()[place], SEED, HTTP_CASES // 4))


def check(outcome: Outcome) -> None:
    """Damage must be neither always fatal nor never: else the samples test nothing."""
    assert outcome.findings == []
    assert outcome.taken > 0
    assert outcome.refused > 0
