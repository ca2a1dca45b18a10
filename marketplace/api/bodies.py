"""Small JSON bodies, read by their type; and answers as JSON with amounts as strings."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from marketplace.domain.errors import BadRequest
from tallystick.protocol.money import MAX_NANO, NanoUsd, parse_usd

T = TypeVar("T")


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the body as `kind`. Raises BadRequest saying what is wrong with it."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not valid: {error}.") from error


def answer(body: Any, status: int = 200) -> Response:
    """Return `body` as JSON, not to be cached since it is one account's."""
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def dollars(text: str, name: str) -> NanoUsd:
    """Return the nano-dollars in a field. Raises BadRequest for what is no amount, negative or absurd."""
    try:
        amount = parse_usd(text)
    except ValueError as error:
        raise BadRequest(f"`{name}`: {error}.", param=name) from error
    if not 0 <= amount <= MAX_NANO:
        raise BadRequest(f"`{name}` is {text}; it must be between 0 and {MAX_NANO} nano-dollars.", param=name)
    return amount


def whole(text: str, name: str) -> int:
    """Return the integer in a field that travels as a string. Raises BadRequest."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise BadRequest(f"`{name}` must be a whole number as a string.", param=name)
    return int(text)


def count(text: str, name: str, *, least: int = 0, most: int) -> int:
    """Return the integer in a query or path. Raises BadRequest unless it is in the bounds."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        raise BadRequest(f"`{name}` must be between {least} and {most}.", param=name)
    return int(text)


def plain(text: str, name: str) -> str:
    """Return a text that the books can keep. Raises BadRequest for one with a null character."""
    if "\0" in text:
        raise BadRequest(f"`{name}` has a null character.", param=name)
    return text


def hex_bytes(text: str, name: str) -> bytes:
    """Return the bytes behind `0x…`. Raises BadRequest."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise BadRequest(f"`{name}` is not hexadecimal.", param=name) from error


def moment(milliseconds: int) -> str:
    """Return a time as RFC 3339 in UTC."""
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
