from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.models.stops import StopScanner

TEXT = st.text(alphabet="abcd", max_size=40)
STOPS = st.lists(st.text(alphabet="abcd", max_size=4), max_size=4)


def answer(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    passed = ""
    for piece in pieces:
        emitted, met = scanner.push(piece)
        passed += emitted
        if met is not None:
            return passed, met
    return passed + scanner.flush(), None


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """The definition, character by character."""
    for end in range(1, len(text) + 1):
        met = max((stop for stop in stops if stop and text[:end].endswith(stop)), key=len, default=None)
        if met is not None:
            return text[: end - len(met)], met
    return text, None


@settings(max_examples=500)
@given(stops=STOPS, text=TEXT, data=st.data())
def test_however_the_text_is_cut_the_first_completed_stop_string_ends_it(
    stops: list[str], text: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert answer(stops, pieces) == expected(stops, text)


def test_a_possible_beginning_is_held_back_and_given_when_it_is_none() -> None:
    scanner = StopScanner(["###"])
    assert scanner.push("one #") == ("one ", None)
    assert scanner.push("#") == ("", None)
    assert scanner.push(" two") == ("## two", None)
    assert scanner.push("#") == ("", None)
    assert scanner.flush() == "#"


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopScanner([]).push("text") == ("text", None)
    assert StopScanner([""]).push("text") == ("text", None)
