"""Lines and bodies as their pieces come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.sdk import reading
from tallystick.sdk.answers import Interrupted, TallystickError
from tallystick.sdk.reading import Body, Lines

LINES = ["data: größer 🙂", "", "data: a\u2028b\x85c\x0bd", ": comment"]


@given(st.lists(st.integers(1, 9)), st.sampled_from(["\n", "\r\n"]))
def test_lines_are_the_same_however_they_are_cut(cuts: list[int], end: str) -> None:
    whole = (end.join(LINES) + end + "rest").encode()
    lines, got, at = Lines(), [], 0
    for cut in [*cuts, len(whole)]:
        got += lines.add(whole[at : at + cut])
        at += cut
    assert [*got, lines.rest()] == [*LINES, "rest"]
    assert lines.rest() == ""


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 10)
    lines = Lines()
    assert lines.add(b"0123456789\n01234") == ["0123456789"]
    with pytest.raises(Interrupted, match="over 10 bytes"):
        lines.add(b"567890")
    with pytest.raises(Interrupted):
        Lines().add(b"0123456789a\n")


def test_a_body_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BODY_BYTES", 4)
    body = Body()
    body.add(b"{}")
    body.add(b"  ")
    assert body.whole() == b"{}  "
    with pytest.raises(TallystickError, match="over 4 bytes"):
        body.add(b" ")
