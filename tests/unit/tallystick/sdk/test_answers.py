"""Answers of a coordinator that may be anybody: read by their type, or refused in one way."""

import json
from typing import Any

import pytest

from tallystick.sdk.answers import AnswerBuilder, Interrupted, TallystickError, answer_from_json

PROOF = {
    "job_id": "0x" + "02" * 32,
    "charge_nano_usd": "3300",
    "parts": [{"node": "0x" + "5f" * 20, "receipt": "0x" + "01" * 32}],
}
USAGE = {"prompt_tokens": 5, "completion_tokens": 6}
WHOLE: dict[str, Any] = {
    "model": "echo",
    "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
    "tallystick": PROOF,
}


def test_an_answer_is_read_with_its_proof() -> None:
    answer = answer_from_json(WHOLE)
    assert (answer.text, answer.tokens, answer.charge) == ("hello", 11, 3300)
    assert (answer.nodes, answer.receipt_ids) == (("0x" + "5f" * 20,), ("0x" + "01" * 32,))


@pytest.mark.parametrize(
    "change",
    [
        {"choices": []},
        {"choices": {}},
        {"usage": None},
        {"usage": USAGE | {"prompt_tokens": -1}},
        {"tallystick": PROOF | {"charge_nano_usd": "-5"}},
        {"tallystick": PROOF | {"charge_nano_usd": "9" * 5_000}},
        {"tallystick": PROOF | {"job_id": "0x02"}},
        {"tallystick": PROOF | {"parts": [{"node": "me", "receipt": "../balance"}]}},
        {"model": 7},
    ],
)
def test_what_is_no_answer_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TallystickError, match="the coordinator's answer is not one"):
        answer_from_json(WHOLE | change)


@pytest.mark.parametrize(
    "line", ["{", "[]", '"x"', '{"choices": [{}]}', '{"choices": [{"delta": 7}]}', "[" * 100_000]
)
def test_a_line_that_is_no_part_of_an_answer_ends_the_stream(line: str) -> None:
    with pytest.raises(Interrupted, match="no part of an answer"):
        AnswerBuilder().feed(f"data: {line}")


def test_a_stream_without_its_proof_is_not_complete() -> None:
    builder = AnswerBuilder()
    builder.feed("data: " + json.dumps({"choices": [{"delta": {"content": "hello"}}], "usage": USAGE}))
    with pytest.raises(Interrupted, match="without its usage and proof"):
        builder.feed("data: [DONE]")
