"""Contracts as their compiler describes them: packing calls, reading answers, events and errors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final

from eth_abi import abi as codec
from eth_abi.exceptions import DecodingError

from tallystick.evm.errors import Reverted
from tallystick.protocol.hashing import keccak256

_SELECTOR: Final = 4


@dataclass(frozen=True, slots=True)
class Log:
    """A decoded event, and where it stands on the chain."""

    contract: str
    event: str
    fields: Mapping[str, Any]
    block_number: int
    block_hash: bytes
    transaction: bytes
    index: int


class Entry:
    """A function, event or error of an ABI."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name: str = entry.get("name", "")
        self.kind: str = entry["type"]
        self.inputs: Sequence[Mapping[str, Any]] = entry.get("inputs", ())
        self.outputs: Sequence[Mapping[str, Any]] = entry.get("outputs", ())
        self.types = [_type_of(one) for one in self.inputs]
        self.hash = keccak256(f"{self.name}({','.join(self.types)})".encode())

    @property
    def names(self) -> list[str]:
        """The names of the inputs, in order; those without one are numbered."""
        return [one["name"] or str(index) for index, one in enumerate(self.inputs)]

    def pack(self, arguments: Sequence[Any]) -> bytes:
        """Return the encoded arguments, without a selector."""
        return codec.encode(self.types, arguments)

    def unpack_inputs(self, data: bytes) -> dict[str, Any]:
        """Return the arguments by name. Raises DecodingError."""
        return dict(zip(self.names, codec.decode(self.types, data), strict=True))

    def unpack_outputs(self, data: bytes) -> Any:
        """Return what a call gave: the value itself if there is one, a tuple if there are several."""
        values = codec.decode([_type_of(one) for one in self.outputs], data)
        return values[0] if len(self.outputs) == 1 else tuple(values)

    def unpack_log(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Return an event's fields by name; indexed ones come from `topics[1:]`."""
        indexed = [one for one in self.inputs if one["indexed"]]
        plain = [one for one in self.inputs if not one["indexed"]]
        fields = {
            one["name"]: codec.decode([_type_of(one)], topic)[0]
            for one, topic in zip(indexed, topics[1:], strict=True)
        }
        values = codec.decode([_type_of(one) for one in plain], data)
        return fields | {one["name"]: value for one, value in zip(plain, values, strict=True)}


@dataclass(frozen=True)
class Artifact:
    """A compiled contract: its ABI and creation code."""

    name: str
    abi: Sequence[Mapping[str, Any]]
    bytecode: bytes

    @cached_property
    def _entries(self) -> list[Entry]:
        return [Entry(one) for one in self.abi]

    @cached_property
    def _functions(self) -> dict[str, Entry]:
        return {one.name: one for one in self._entries if one.kind == "function"}

    @cached_property
    def _events(self) -> dict[bytes, Entry]:
        return {one.hash: one for one in self._entries if one.kind == "event"}

    def errors(self) -> Iterator[Entry]:
        """Give the custom errors."""
        return (one for one in self._entries if one.kind == "error")

    def function(self, name: str) -> Entry:
        """Return the function called `name`. Raises KeyError."""
        return self._functions[name]

    def topic(self, event: str) -> bytes:
        """Return the first topic of an event. Raises KeyError."""
        for hashed, entry in self._events.items():
            if entry.name == event:
                return hashed
        raise KeyError(f"{self.name} has no event {event}")

    def topics(self) -> list[bytes]:
        """Return the first topics of all events."""
        return list(self._events)

    def encode(self, name: str, arguments: Sequence[Any]) -> bytes:
        """Return the call data of a function."""
        entry = self.function(name)
        return entry.hash[:_SELECTOR] + entry.pack(arguments)

    def creation_code(self, *arguments: Any) -> bytes:
        """Return the data of the transaction that deploys the contract."""
        constructor = next((one for one in self._entries if one.kind == "constructor"), None)
        return self.bytecode + (constructor.pack(arguments) if constructor else b"")

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Return an event's name and fields, or None for an event that is not this contract's."""
        entry = self._events.get(topics[0]) if topics else None
        return None if entry is None else (entry.name, entry.unpack_log(topics, data))


@cache
def load_artifact(name: str) -> Artifact:
    """Return an artifact that the package carries: `Ledger`, `Stake`, `TestUSD`. Raises FileNotFoundError."""
    text = (resources.files("tallystick") / "artifacts" / f"{name}.json").read_text()
    content = json.loads(text)
    return Artifact(name, content["abi"], bytes.fromhex(content["bytecode"].removeprefix("0x")))


@cache
def _known_errors() -> dict[bytes, Entry]:
    folder = resources.files("tallystick") / "artifacts"
    names = [one.name.removesuffix(".json") for one in folder.iterdir() if one.name.endswith(".json")]
    return {error.hash[:_SELECTOR]: error for name in names for error in load_artifact(name).errors()}


_TEXT: Final = keccak256(b"Error(string)")[:_SELECTOR]
_PANIC: Final = keccak256(b"Panic(uint256)")[:_SELECTOR]


def read_revert(data: bytes, message: str) -> Reverted:
    """Return the error behind a revert's data, with name and numbers if it is one of our contracts' errors.

    `message` is what the chain's node says about it, for reverts that carry no data.
    """
    selector, rest = data[:_SELECTOR], data[_SELECTOR:]
    try:
        if selector == _TEXT:
            return Reverted("Error", {"message": codec.decode(["string"], rest)[0]})
        if selector == _PANIC:
            return Reverted("Panic", {"code": codec.decode(["uint256"], rest)[0]})
        if (entry := _known_errors().get(selector)) is not None:
            return Reverted(entry.name, entry.unpack_inputs(rest))
    except DecodingError:
        return Reverted("Error", {"message": f"unreadable revert data 0x{data.hex()}"})
    return Reverted("Error", {"message": f"unknown error 0x{data.hex()}" if data else message})


def _type_of(one: Mapping[str, Any]) -> str:
    kind: str = one["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type_of(part) for part in one['components'])}){kind.removeprefix('tuple')}"
