"""The text of an answer's ids, read as they come: nobody has to read a long answer all at once at its end.

A stranger's tokenizer reads here, and a stranger's ids are read: what takes long, or makes much, is refused.
"""

import codecs
from collections.abc import Sequence
from sys import getsizeof
from typing import Final, Protocol, Self

from tallystick.models.tokenizer import BadTokenizer, Detokenizer

MAX_TEXT_BYTES: Final = 16 * 1024**2
MOST_WAITING: Final = 8192
"""Ids in a row that wait for what follows, as bytes of characters do; no language has a tenth of it."""
ID_BYTES: Final = 40
"""Memory that an id in a list takes: an int and the reference to it."""

_STRETCH: Final = 1024
_CONTEXT: Final = 8
"""Ids that are read again with those that follow, since a decoder looks at neighbours."""
_ANCHORS: Final = 64
"""Tokens that are tried for a beginning of the context; then spaces must do."""


class Reader(Protocol):
    """The text of the ids added so far."""

    def add(self, ids: Sequence[int]) -> None:
        """Go on with `ids`, or not at all: raises BadTokenizer for what is no id, and for too long a text."""
        ...

    def text(self) -> str:
        """Return what `decode` makes of all the ids. Raises BadTokenizer."""
        ...

    def certain_before_last(self) -> str:
        """Return the text that was certain, whatever followed, when all ids but the last were there."""
        ...

    def copy(self) -> Self:
        """Return one that goes on from here by itself."""
        ...

    def kept_bytes(self) -> int:
        """Return about how much memory it takes."""
        ...


def reader_of(tokenizer: Detokenizer, ids: Sequence[int] = ()) -> Reader:
    """Return a reader of `ids`. Raises BadTokenizer."""
    reader = _WindowReader(tokenizer) if tokenizer.text_bytes(()) is None else _ByteReader(tokenizer)
    reader.add(ids)
    return reader


class _ByteReader:
    """Tokens that are bytes are only put together."""

    def __init__(self, tokenizer: Detokenizer) -> None:
        self._tokenizer = tokenizer
        self._parts: list[bytes] = []
        self._size = 0
        self._last: tuple[int, ...] = ()

    def add(self, ids: Sequence[int]) -> None:
        parts, size = [], self._size
        for start in range(0, len(ids), _STRETCH):
            part = self._tokenizer.text_bytes(ids[start : start + _STRETCH]) or b""
            parts.append(part)
            size = _bounded(size + len(part))
        self._parts += parts
        self._size = size
        self._last = tuple(ids[-1:]) or self._last

    def text(self) -> str:
        return b"".join(self._parts).decode(errors="replace")

    def certain_before_last(self) -> str:
        last = self._tokenizer.text_bytes(self._last) or b""
        before = b"".join(self._parts)[: self._size - len(last)]
        return codecs.getincrementaldecoder("utf-8")("replace").decode(before)

    def copy(self) -> "_ByteReader":
        other = _ByteReader(self._tokenizer)
        other._parts, other._size, other._last = [*self._parts], self._size, self._last
        return other

    def kept_bytes(self) -> int:
        return list_bytes(self._parts)


class _WindowReader:
    """Any other tokens: long texts are settled a stretch at a time, up to a token with text of its own.

    The text of all ids is `_settled`, and what `_ids`, the last of them, make beyond the `_given` characters
    of theirs that are settled too.
    """

    def __init__(self, tokenizer: Detokenizer) -> None:
        self._tokenizer = tokenizer
        self._settled: list[str] = []
        self._ids: list[int] = []
        self._given = 0
        self._size = 0
        self._next = 2 * _STRETCH

    def add(self, ids: Sequence[int]) -> None:
        window, length, settled = self._ids, len(self._ids), len(self._settled)
        numbers = self._given, self._size, self._next
        try:
            for start in range(0, len(ids), _STRETCH):
                self._ids += ids[start : start + _STRETCH]
                if len(self._ids) >= self._next:
                    self._settle()
        except BadTokenizer:
            del window[length:], self._settled[settled:]
            self._ids = window
            self._given, self._size, self._next = numbers
            raise

    def text(self) -> str:
        return self._with(len(self._ids))

    def certain_before_last(self) -> str:
        return self._with(self._end_of_certain(len(self._ids) - 1))

    def copy(self) -> "_WindowReader":
        other = _WindowReader(self._tokenizer)
        other._settled, other._ids = [*self._settled], [*self._ids]
        other._given, other._size, other._next = self._given, self._size, self._next
        return other

    def kept_bytes(self) -> int:
        return list_bytes(self._settled) + ID_BYTES * len(self._ids)

    def _with(self, end: int) -> str:
        """Return the text of all ids up to the window's `end`."""
        window = self._tokenizer.decode(self._ids[:end])
        if len(window) >= self._given:
            return "".join(self._settled) + window[self._given :]
        settled = "".join(self._settled)
        return settled[: len(settled) - self._given + len(window)]

    def _end_of_certain(self, end: int) -> int:
        """Return where the ids before `end` that wait begin. Raises BadTokenizer if they are too many."""
        waiting = 0
        while end > 0 and not self._tokenizer.speaks(self._ids[end - 1]):
            end, waiting = end - 1, waiting + 1
            if waiting > MOST_WAITING:
                raise BadTokenizer(f"more than {MOST_WAITING} tokens in a row have no text of their own")
        return max(end, 0)

    def _settle(self) -> None:
        end = self._end_of_certain(len(self._ids))
        if end > _CONTEXT:
            fresh = self._tokenizer.decode(self._ids[:end])[self._given :]
            self._size = _bounded(self._size + len(fresh.encode()))
            self._settled.append(fresh)
            start = self._anchor(end - _CONTEXT)
            self._given = len(self._tokenizer.decode(self._ids[start:end]))
            self._ids = self._ids[start:]
        self._next = len(self._ids) + _STRETCH

    def _anchor(self, latest: int) -> int:
        """Return where the context begins: at a token with text, since decoders strip spaces in front."""
        speaking = 0
        tried = 0
        for start in range(latest, 0, -1):
            one = self._ids[start]
            if not self._tokenizer.speaks(one):
                continue
            if self._tokenizer.decode([one]).strip():
                return start
            speaking, tried = speaking or start, tried + 1
            if tried == _ANCHORS:
                break
        return speaking


def list_bytes(pieces: list[bytes] | list[str]) -> int:
    """Return the memory that a list and its pieces take; a str may take four bytes a character."""
    return getsizeof(pieces) + sum(map(getsizeof, pieces))


def _bounded(size: int) -> int:
    if size > MAX_TEXT_BYTES:
        raise BadTokenizer(f"a text of more than {MAX_TEXT_BYTES} bytes")
    return size
