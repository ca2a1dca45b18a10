"""Damage to valid samples, by a seeded generator: the same seed and case give the same damage.

Bytes are flipped, cut, spliced and given huge lengths; trees of JSON or msgpack lose, gain and swap parts and
get values of other types, at the edges of their types, or nested too deep.
"""

import copy
import random
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

DEPTHS: Final = (3, 40, 900, 5_000)
EDGES: Final = (
    *(0, 1, -1, 127, 128, 255, 256, 65_535, 65_536, 10**6),
    *(sign * 2**power + step for power in (31, 32, 53, 62, 63) for sign in (1, -1) for step in (-1, 0, 1)),
    *(2**64 - 1,),
)
FLOATS: Final = (0.0, -0.0, 0.1, -1.5, 1e-320, 1e308, -1e308)
TEXTS: Final = (
    "",
    " ",
    "\0",
    "0",
    "-1",
    "1e999",
    "0x",
    "0x" + "00" * 20,
    "0x" + "FF" * 32,
    "null",
    "../../etc/passwd",
    "é" * 3,
    "\u202e\u2028\ufeff",
    "👩‍👩‍👧‍👦",
    "٣٤٥",
    "%s%n{}{{",
    "' OR 1=1 --",
    "{{ 7 * 7 }}",
    "9" * 4_400,
    "a" * 70_000,
)
JSON_BITS: Final = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"0.1e-7",
    b"\\ud800",
    b"\\u0000",
    b'"\xff"',
    b"01",
    b"//",
)
LENGTHS: Final = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(
        b"\xff\xff\xff\xff",
        b"\xff" * 8,
        b"\x7f" + b"\xff" * 7,
        b"\x80" + b"\x00" * 7,
        b"\xc9\xff\xff\xff\xff\x05",
    ),
)
"""Heads of msgpack arrays, maps, bytes, strings and extensions of four billion, and plain big numbers."""
NESTS: Final = (b"\x91", b"\x81\xa1a", b"[", b'{"a":', b"(", b"{{", b"[[")


class Mutator:
    """Makes damaged copies of samples."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)

    def bytes_of(self, sample: bytes, others: Sequence[bytes] = ()) -> bytes:
        """Return `sample` with a few bytes damaged; `others` are samples that parts may come from."""
        data = bytearray(sample)
        for _ in range(self.chance.choice((1, 1, 1, 2, 3, 8))):
            self.chance.choice(_BYTE_DAMAGES)(self.chance, data, others)
        return bytes(data[: 2**20])

    def tree_of(self, sample: Any, *, is_json: bool = False) -> Any:
        """Return a copy of a tree of dicts and lists with a few of its parts damaged."""
        tree = [copy.deepcopy(sample)]
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            self._damage(tree, is_json)
        return tree[0]

    def text_of(self, sample: str, others: Sequence[str] = ()) -> str:
        """Return `sample` with a few characters damaged; always encodable in UTF-8."""
        damaged = self.bytes_of(sample.encode(), [other.encode() for other in others])
        return damaged.decode(errors="replace")

    def json_of(self, sample: Any) -> bytes:
        """Return a damaged JSON document: the tree, the bytes, or both."""
        kind = self.chance.random()
        tree = sample if kind < 0.25 else self.tree_of(sample, is_json=True)
        data = to_json(tree)
        return self.bytes_of(data, [to_json(sample)]) if kind < 0.4 else data

    def value(self, is_json: bool) -> Any:
        """Return some value that was not asked for."""
        chance = self.chance
        kind = chance.randrange(9)
        if kind == 8:
            return nested(chance.choice(DEPTHS), chance.choice(("list", "dict")))
        plain: tuple[Callable[[], Any], ...] = (
            lambda: chance.choice(EDGES),
            lambda: chance.choice(FLOATS),
            lambda: chance.choice(TEXTS),
            lambda: chance.choice((None, True, False)),
            lambda: chance.choice(([], {}, [[]], [None] * 3, {"": None}, {"t": "job"})),
            lambda: (
                chance.choice(TEXTS) if is_json else chance.randbytes(chance.choice((0, 1, 31, 32, 33, 65)))
            ),
            lambda: chance.randrange(-(2**63), 2**64),
            lambda: [0] * chance.choice((1, 100, 5_000)),
        )
        return plain[kind]()

    def _damage(self, tree: list[Any], is_json: bool) -> None:
        places = list(_places(tree))
        holder, key = self.chance.choice(places)
        kind = self.chance.randrange(8)
        value = holder[key]
        if kind <= 2:
            holder[key] = self.value(is_json)
        elif kind == 3:
            other, place = self.chance.choice(places)
            holder[key] = _copied(other[place])
        elif kind == 4 and holder is not tree:
            del holder[key]
        elif kind == 5 and isinstance(holder, dict):
            holder[self.chance.choice(TEXTS[:16])] = holder.pop(key)
        elif kind == 6 and isinstance(value, list) and value:
            holder[key] = value * self.chance.choice((2, 50))
        else:
            holder[key] = self._near(value)

    def _near(self, value: Any) -> Any:
        """Return a value of the same type, not quite right."""
        chance = self.chance
        match value:
            case bool():
                return not value
            case int():
                return value + chance.choice((-1, 1, -value, 2**32, -(2**32), 2**63))
            case str():
                return self.text_of(value)
            case bytes():
                return self.bytes_of(value)
            case list():
                return chance.sample(value, len(value))
            case dict():
                return value | {chance.choice(string.ascii_letters): self.value(is_json=True)}
            case _:
                return chance.choice((0, "", []))


def to_json(tree: Any) -> bytes:
    """Return a tree as JSON; one that JSON cannot say is a nest of lists."""
    try:
        return msgspec.json.encode(tree)
    except (RecursionError, msgspec.EncodeError, UnicodeEncodeError, OverflowError):
        return b'{"deep":' + b"[" * 5_000 + b"]" * 5_000 + b"}"


def to_msgpack(tree: Any) -> bytes:
    """Return a tree as msgpack; one that msgpack cannot say is a nest of arrays."""
    try:
        return msgspec.msgpack.encode(tree)
    except (RecursionError, msgspec.EncodeError, UnicodeEncodeError, OverflowError):
        return b"\x91" * 5_000 + b"\xc0"


def _copied(tree: Any) -> Any:
    try:
        return copy.deepcopy(tree)
    except RecursionError:
        return 0  # one of our own nests; without a copy it could come to hold itself


def nested(depth: int, kind: str) -> Any:
    """Return lists or dicts in one another."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def _places(tree: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Give every part of a tree as its holder and its key there; nests are walked without recursion."""
    waiting: list[Any] = [tree]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(min(len(holder), 64)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])


def _flip(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice((0, 0xFF, 0x7F, 0x80, 0xC1, chance.randrange(256)))


def _cut(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _remove(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.choice((1, 2, 4, 32, 200))]


def _insert(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.choice((1, 2, 8, 64)))


def _repeat(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 8, 64, 500))]
    data[start:start] = piece * chance.choice((1, 2, 20))


def _splice(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    if others:
        other = chance.choice(others)
        data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other) + 1) :]


def _lengthen(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    head = chance.choice(LENGTHS + JSON_BITS)
    data[start : start + chance.choice((0, len(head)))] = head


def _nest(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.choice(NESTS) * chance.choice(DEPTHS)


_BYTE_DAMAGES: Final = (_flip, _flip, _set, _set, _cut, _remove, _insert, _repeat, _splice, _lengthen, _nest)
