"""Frames: they come back as sent, newer peers are tolerated, and garbage is refused as the peer's fault."""

import tracemalloc
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from tallystick.protocol import frames
from tallystick.protocol.frames import (
    MAX_MESSAGE_BYTES,
    AnyFrame,
    BadFrame,
    Finished,
    decode_frames,
    encode_frames,
    version_named,
)
from tallystick.protocol.parameters import MAX_STOP_CHARACTERS
from tallystick.protocol.receipts import SignedReceipt
from tests.unit.tallystick.protocol.builders import make_receipt

ZERO = "0x" + "00" * 20


def values_of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Values within the declared type and its bounds, so that a new frame is covered when it is declared."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            return st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high)
        case inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=80 if most is None else most)
        case inspect.StrType(pattern=None):
            return st.text(max_size=20)
        case inspect.StrType():
            return st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
        case inspect.BoolType():
            return st.booleans()
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high)
        case inspect.VarTupleType(item_type=item):
            return st.lists(values_of(item), max_size=5).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values_of, items))
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values_of(field.type) for field in fields})
        case _:
            raise TypeError(f"no strategy for {kind}")


any_frame: st.SearchStrategy[AnyFrame] = st.one_of(
    [values_of(inspect.type_info(frame)) for frame in get_args(AnyFrame)]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(any_frame, max_size=4))
def test_frames_come_back_as_they_were_sent(sent: list[AnyFrame]) -> None:
    assert decode_frames(encode_frames(sent)) == sent


@settings(max_examples=200, deadline=None)
@given(any_frame, st.text(min_size=12, max_size=20), st.recursive(st.none() | st.integers(0, 9), st.lists))
def test_unknown_fields_are_tolerated(frame: AnyFrame, name: str, value: Any) -> None:
    (fields,) = msgspec.msgpack.decode(encode_frames([frame]))
    assert decode_frames(msgspec.msgpack.encode([fields | {f"new {name}": value}])) == [frame]


@settings(max_examples=200, deadline=None)
@given(any_frame, st.text(max_size=12))
def test_unknown_types_are_refused(frame: AnyFrame, tag: str) -> None:
    (fields,) = msgspec.msgpack.decode(encode_frames([frame]))
    with pytest.raises(BadFrame):
        decode_frames(msgspec.msgpack.encode([fields | {"t": f"{tag}?"}]))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused_and_crashes_nothing(message: bytes) -> None:
    try:
        received = decode_frames(message)
    except BadFrame:
        return
    assert all(isinstance(frame, get_args(AnyFrame)) for frame in received)


@settings(max_examples=500, deadline=None)
@given(any_frame, st.data())
def test_a_message_with_bytes_changed_is_frames_or_refused(frame: AnyFrame, data: st.DataObject) -> None:
    message = bytearray(encode_frames([frame]))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        received = decode_frames(bytes(message))
    except BadFrame:
        return
    for changed in received:  # whatever is let in fits its types, and so can be sent on and hashed
        assert decode_frames(encode_frames([changed])) == [changed]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job_id", bytes(31)),
        ("salt", b""),
        ("account", "0x" + "AB" * 20),
        ("account", ZERO + "\n"),
        ("attempt", -1),
        ("attempt", 2**32),
        ("input_price", 2**63),
        ("fee_bps", 2**16),
        ("prompt_ids", [2**32]),
        ("parameters", {"temperature": -1}),
        ("parameters", {"top_p": 1_000_001}),
        ("parameters", {"top_k": 257}),
        ("parameters", {"temperature": 0.7}),
        ("parameters", {"logit_bias": [[0, 10**10]]}),
    ],
)
def test_a_field_out_of_its_bounds_is_refused(name: str, value: Any) -> None:
    fields: dict[str, Any] = {
        "t": "job",
        **{field: bytes(32) for field in ("job_id", "model_id", "salt", "job_seed")},
        **dict.fromkeys(("attempt", "input_price", "output_price", "fee_bps"), 0),
        "account": ZERO,
        "prompt_ids": [],
        "prompt_text": "",
        "parameters": {},
    }
    assert len(decode_frames(msgspec.msgpack.encode([fields]))) == 1
    with pytest.raises(BadFrame, match=name):
        decode_frames(msgspec.msgpack.encode([fields | {name: value}]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.5])
def test_a_likelihood_that_json_cannot_hold_is_refused(value: float) -> None:
    for logprob in (frames.TokenLogprob(value), frames.TokenLogprob(-1.0, ((7, value),))):
        tokens = frames.Tokens(
            job_id=bytes(32), attempt=0, position=0, ids=(7,), text="", logprobs=(logprob,)
        )
        with pytest.raises(BadFrame):
            decode_frames(encode_frames([tokens]))


def test_a_stop_string_is_no_longer_than_one_may_be() -> None:
    signed = SignedReceipt(receipt=make_receipt(), signature=bytes(65))
    longest = Finished(receipt=signed, stop="\N{GRINNING FACE}" * MAX_STOP_CHARACTERS)
    assert decode_frames(encode_frames([longest])) == [longest]
    with pytest.raises(BadFrame, match="stop"):
        decode_frames(encode_frames([Finished(receipt=signed, stop="x" * (MAX_STOP_CHARACTERS + 1))]))


def test_messages_over_the_limits_are_refused() -> None:
    blob = frames.Blob(sha256=bytes(32), offset=0, total=0, data=bytes(frames.MAX_MESSAGE_BYTES))
    with pytest.raises(BadFrame, match="limit"):
        decode_frames(encode_frames([blob]))
    with pytest.raises(BadFrame, match="limit"):
        decode_frames(encode_frames([frames.Draining()] * (frames.MAX_FRAMES + 1)))
    assert len(decode_frames(encode_frames([frames.Draining()] * frames.MAX_FRAMES))) == frames.MAX_FRAMES


def test_a_deeply_nested_message_is_refused() -> None:
    with pytest.raises(BadFrame):
        decode_frames(b"\x91" * 100_000)
    fields = b"\x82\xa1t\xa8draining\xa1x"
    with pytest.raises(BadFrame):
        decode_frames(b"\x91" + fields + b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize("piece", [b"\x80", b"\x91" * 200 + b"\xc0", b"\x81\xa1x" + b"\x91" * 50 + b"\xc0"])
def test_looking_for_a_strangers_version_builds_nothing_of_what_it_sent(piece: bytes) -> None:
    """It is all that is read of a first message that is no Hello, by whoever has no key and no stake."""
    count = (MAX_MESSAGE_BYTES - 5) // len(piece)
    message = b"\xdd" + count.to_bytes(4, "big") + piece * count
    tracemalloc.start()
    assert version_named(message) is None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * MAX_MESSAGE_BYTES


def test_a_version_is_found_in_frames_that_nobody_knows() -> None:
    assert version_named(msgspec.msgpack.encode([{"t": "new", "version": 7, "more": [{"a": 1}]}])) == 7
    assert version_named(msgspec.msgpack.encode([{"t": "new", "version": True}])) is None
    assert version_named(msgspec.msgpack.encode([])) is None
