"""Texts and small files: sign-in messages, amounts, manifests, chats, configuration, keystores, answers."""

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

from scripts import vector_samples as samples
from tallystick.models.chat import DEFAULT_TEMPLATE, BadMessages, BadTemplate, render_chat
from tallystick.models.manifest import BadManifest, Manifest, canonical_json, decode_manifest
from tallystick.protocol.ids import to_address, to_bytes32, to_hex
from tallystick.protocol.money import format_price, format_usd, parse_price, parse_usd
from tallystick.sdk.answers import AnswerBuilder, TallystickError, answer_from_json
from tallystick.signin import BadSignIn, SignIn, parse_sign_in
from tests.fuzz.driver import Parser
from tests.fuzz.mutation import TEXTS, Mutator, to_json

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
SIGN_IN = SignIn(
    domain="127.0.0.1:8080",
    address=samples.CONSUMER.address,
    uri="http://127.0.0.1:8080",
    chain_id=31337,
    nonce="abcdefgh12345678",
    issued_at=MOMENT,
    expires_at=MOMENT,
    not_before=MOMENT,
).text()
SIGN_INS = (
    SIGN_IN,
    SIGN_IN + "\nRequest ID: 7\nResources:\n- https://example.com",
    SIGN_IN.replace("Z", "+00:00"),
)
TIMES = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-W01-1T00Z", "٢")


def a_sign_in(mutator: Mutator) -> str:
    """Return a damaged sign-in message."""
    text = mutator.chance.choice(SIGN_INS)
    if mutator.chance.random() < 0.3:
        time = mutator.chance.choice(TIMES)
        return text.replace("2026-01-02T03:04:05.678Z", time, mutator.chance.choice((1, 2, 3)))
    return mutator.text_of(text, SIGN_INS)


def read_sign_in(text: str) -> bool:
    """Parse; what is taken and written in our own form, to milliseconds, reads the same."""
    try:
        message = parse_sign_in(text)
    except BadSignIn:
        return False
    written = message.text()
    assert parse_sign_in(written).text() == written
    return True


AMOUNTS = ("1.25", "$0.0003", "-7", "0.30", "9223372036.854775807", "0x" + "5f" * 20, to_hex(b"\x07" * 32))


def an_amount(mutator: Mutator) -> str:
    """Return a damaged amount, price, address or hash."""
    if mutator.chance.random() < 0.1:
        return mutator.chance.choice(TEXTS)
    return mutator.text_of(mutator.chance.choice(AMOUNTS), AMOUNTS)


def read_amount(text: str) -> bool:
    """Read it as each of them; what is taken is written as something that reads the same."""
    readers: tuple[tuple[Any, Any], ...] = (
        (parse_usd, format_usd),
        (parse_price, format_price),
        (to_address, str),
        (to_bytes32, to_hex),
    )
    taken = False
    for read, write in readers:
        try:
            value = read(text)
        except ValueError:
            continue
        assert read(write(value)) == value
        taken = True
    return taken


MANIFEST = Manifest(
    name="smollm2-135m",
    family="llama",
    weights=(("config.json", "ab" * 32), ("model.safetensors", "cd" * 32)),
    tokenizer="ef" * 32,
    chat_template=DEFAULT_TEMPLATE,
    special_tokens=(("bos_token", "<s>"), ("eos_token", "</s>")),
    eos_ids=(2,),
    vocab_size=49152,
    context_length=2048,
    numerics="fp32",
)


def a_manifest(mutator: Mutator) -> bytes:
    """Return a damaged manifest, mostly canonical JSON all the same."""
    if mutator.chance.random() < 0.3:
        return mutator.bytes_of(canonical_json(MANIFEST))
    tree = mutator.tree_of(msgspec.to_builtins(MANIFEST), is_json=True)
    try:
        return msgspec.json.encode(tree, order="sorted")
    except (RecursionError, OverflowError, TypeError):
        return to_json(tree)


def read_manifest(data: bytes) -> bool:
    """Decode; what is taken is canonical."""
    try:
        manifest = decode_manifest(data)
    except BadManifest:
        return False
    assert canonical_json(manifest) == data
    return True


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Größe? 世界 🙂"}]


def a_chat(mutator: Mutator) -> Any:
    """Return damaged messages, as they come out of a body."""
    tree = mutator.tree_of(CHAT, is_json=True)
    return [one for one in tree if isinstance(one, dict)] if isinstance(tree, list) else []


def read_chat_messages(messages: Any) -> bool:
    """Render them with the template of models that have none."""
    try:
        return isinstance(render_chat(MANIFEST, messages), str)
    except (BadMessages, BadTemplate):
        return False


@cache
def _answer() -> dict[str, Any]:
    receipt = to_hex(b"\x01" * 32)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "echo",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
        "tallystick": {
            "job_id": to_hex(b"\x02" * 32),
            "charge_nano_usd": "3300",
            "parts": [{"node": "0x" + "5f" * 20, "receipt": receipt}],
        },
    }


def an_answer(mutator: Mutator) -> Any:
    """Return a damaged answer of a coordinator, as it comes out of its JSON."""
    return mutator.tree_of(_answer(), is_json=True)


def read_answer(body: Any) -> bool:
    """Read a whole answer as the SDK does."""
    try:
        answer_from_json(body)
    except TallystickError:
        return False
    return True


@cache
def _lines() -> list[Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "echo"}
    piece = head | {"choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": None}]}
    last = head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    proof = {"tallystick": _answer()["tallystick"]}
    return [piece, last | proof, head | {"choices": [], "usage": _answer()["usage"]}]


def a_stream(mutator: Mutator) -> list[str]:
    """Return the lines of a stream, one of them damaged."""
    lines = [json.dumps(line) for line in _lines()]
    place = mutator.chance.randrange(len(lines))
    lines[place] = mutator.json_of(_lines()[place]).decode(errors="replace")
    return [*(f"data: {line}" for line in lines), "data: [DONE]"]


def read_stream(lines: list[str]) -> bool:
    """Read a streamed answer as the SDK does."""
    builder = AnswerBuilder()
    try:
        for line in lines:
            builder.feed(line)
        builder.close()
    except TallystickError:
        return False
    return True


PARSERS = (
    Parser("sign-in messages", a_sign_in, read_sign_in, 8),
    Parser("amounts and ids", an_amount, read_amount, 8),
    Parser("manifests", a_manifest, read_manifest, 8),
    Parser("chat messages", a_chat, read_chat_messages, 5),
    Parser("answers", an_answer, read_answer, 5),
    Parser("streamed answers", a_stream, read_stream, 5),
)
