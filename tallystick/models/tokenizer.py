"""Tokens and text, the same for the node that makes an answer and the coordinator that checks it.

The text of ids is `decode(ids)` with special tokens skipped and nothing cleaned up. A stream gives the same
text piece by piece: what it has given never changes, and never ends inside of a UTF-8 character.
"""

import codecs
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import tokenizers

from tallystick.models.manifest import BYTES_TOKENIZER, OPAQUE_TOKENIZER

EOS_BYTE: Final = 256
"""The end of an answer in "bytes/v1", after the 256 bytes."""

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WINDOW: Final = 8
_MOST_REMEMBERED: Final = 2_000_000
"""Ids; a vocabulary has fewer, and there are 2^32 that a stranger may send."""

Found = TypeVar("Found")


class BadTokenizer(ValueError):
    """A tokenizer that does not load, is not the one named, or does not exist; or an id it does not have."""


class DetokenizeStream(Protocol):
    """The text of ids that arrive one by one."""

    @property
    def resumed(self) -> str:
        """The text that the resumed ids completed; `push` goes on after it."""
        ...

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes; possibly empty."""
        ...

    def push_all(self, ids: Sequence[int]) -> str:
        """Return the text that `ids` complete, in order."""
        ...

    def finish(self) -> str:
        """Return the rest: all the pieces together are `decode` of all the ids."""
        ...


class Detokenizer(Protocol):
    """Ids to text."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens. Raises BadTokenizer for what is no id."""
        ...

    def token_text(self, token_id: int) -> str:
        """Return one token as text, special tokens too, � for bytes that are no character by themselves."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return one token's bytes. Raises BadTokenizer for an id that there is not."""
        ...

    def stream(self, resume_ids: Sequence[int] = ()) -> DetokenizeStream:
        """Return a stream that has been given `resume_ids` already."""
        ...

    def text_bytes(self, ids: Sequence[int]) -> bytes | None:
        """Return the bytes of the text, each token's after the other's; None if they depend on neighbours."""
        ...

    def speaks(self, token_id: int) -> bool:
        """Say whether the token's text is certain as soon as it comes."""
        ...


class Tokenizer(Detokenizer, Protocol):
    """Text to ids and back. A stranger's may take any time to make ids."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of `text`; special tokens spelled out in it become their ids.

        Raises BadTokenizer if the tokenizer breaks on it.
        """
        ...


def load_tokenizer(kind: str, blob: bytes) -> Tokenizer:
    """Return the tokenizer that a manifest names as `kind`; `blob` is its tokenizer.json, if it has one.

    Raises BadTokenizer if the blob is not the one named, does not load, or if the model is opaque.
    """
    if kind == OPAQUE_TOKENIZER:
        raise BadTokenizer("the engine behind this model does not show its tokens")
    if kind == BYTES_TOKENIZER:
        return ByteTokenizer()
    found = hashlib.sha256(blob).hexdigest()
    if found != kind:
        raise BadTokenizer(f"the tokenizer has SHA-256 {found}, not {kind}")
    return HfTokenizer(blob)


class ByteTokenizer:
    """ "bytes/v1": each byte of UTF-8 is a token; 256 ends an answer."""

    vocab_size = 257

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return _joined_bytes(ids).decode(errors="replace")

    def token_text(self, token_id: int) -> str:
        return "<|end|>" if token_id == EOS_BYTE else self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return _joined_bytes((token_id,))

    def text_bytes(self, ids: Sequence[int]) -> bytes | None:
        return _joined_bytes(ids)

    def speaks(self, token_id: int) -> bool:
        return token_id < 0x80

    def stream(self, resume_ids: Sequence[int] = ()) -> DetokenizeStream:
        return _ByteStream(_joined_bytes, resume_ids)


def _has_pattern(part: Any) -> bool:
    """Say whether a regular expression stands somewhere in a part of a tokenizer.json."""
    match part:
        case dict():
            return "Regex" in part or any(_has_pattern(one) for one in part.values())
        case list():
            return any(_has_pattern(one) for one in part)
        case _:
            return False


@contextlib.contextmanager
def _without_panics() -> Iterator[None]:
    """Raise BadTokenizer where the library panics, as on a pattern that backtracks without end.

    A panic is no Exception: it would pass every handler and end the task that decodes a stranger's tokens.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise BadTokenizer(f"the tokenizer breaks on this input: {error}") from error


class _Remembered(dict[int, Found], Generic[Found]):
    """What was found for ids, found once; the ids that logits are padded with are not kept: they are many."""

    def __init__(self, find: Callable[[int], Found]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, token_id: int) -> Found:
        found = self._find(token_id)
        if token_id < _MOST_REMEMBERED:
            self[token_id] = found
        return found


class HfTokenizer:
    """A tokenizer.json of the `tokenizers` library."""

    def __init__(self, blob: bytes) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(blob)
            description = json.loads(blob)
        except Exception as error:  # the library raises bare Exception for anything malformed
            raise BadTokenizer(f"not a tokenizer.json: {error}") from error
        if _has_pattern(description.get("decoder")):
            # It would run over every answer, and backtrack as long as its author likes. No model needs one.
            raise BadTokenizer("its decoder has a regular expression")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._special = frozenset(
            int(token["id"]) for token in description.get("added_tokens", ()) if token.get("special")
        )
        self._is_byte_level = _has_byte_level_decoder(description.get("decoder"))
        self._pieces: dict[int, bytes] = {}
        self._texts = _Remembered(self._find_text)
        self._speaking = _Remembered(self._find_speaking)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        with _without_panics():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        try:
            with _without_panics():
                text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        except (OverflowError, TypeError) as error:
            raise BadTokenizer(f"not token ids: {error}") from error
        return text

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._find_piece(token_id)
        return piece

    def stream(self, resume_ids: Sequence[int] = ()) -> DetokenizeStream:
        if self._is_byte_level:
            return _ByteStream(self._joined, resume_ids)
        return _WindowStream(self, resume_ids)

    def is_silent(self, token_id: int) -> bool:
        """Say whether `decode` skips the token: it is special, or one that pads a model's logits."""
        if token_id in self._special:
            return True
        return 0 <= token_id < 2**32 and self._tokenizer.id_to_token(token_id) is None

    def is_byte(self, token_id: int) -> bool:
        """Say whether the token stands for one byte (`<0x0A>`)."""
        return _BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(token_id) or "") is not None

    def text_bytes(self, ids: Sequence[int]) -> bytes | None:
        return self._joined(ids) if self._is_byte_level else None

    def speaks(self, token_id: int) -> bool:
        return self._speaking[token_id]

    def _joined(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self._texts.__getitem__, ids))

    def _find_text(self, token_id: int) -> bytes:
        return b"" if self.is_silent(token_id) else self.token_bytes(token_id)

    def _find_speaking(self, token_id: int) -> bool:
        return not (self.is_silent(token_id) or self.is_byte(token_id))

    def _find_piece(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        if token is None:
            raise BadTokenizer(f"there is no token {token_id}")
        if token_id in self._special:
            return token.encode()
        if self._is_byte_level:
            return _byte_level_bytes(token)
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace("▁", " ").encode()


class _ByteStream:
    """Text of tokens that are bytes: only an unfinished character waits."""

    def __init__(self, to_bytes: Any, resume_ids: Sequence[int]) -> None:
        self._to_bytes = to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.resumed = self.push_all(resume_ids)

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._to_bytes((token_id,)))

    def push_all(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(self._to_bytes(ids))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowStream:
    """Text for any other decoder: the difference that a token makes to the text of the last few.

    Such decoders look at neighbours: they strip a space in front, and turn a run of byte tokens into
    characters only as a whole. So the window starts at a token with text, and a run of byte tokens waits for
    its end, over silent tokens in its midst.
    """

    def __init__(self, tokenizer: HfTokenizer, resume_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0
        self._given = 0
        self._text = ""
        self.resumed = self.push_all(resume_ids)

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        if self._tokenizer.is_byte(token_id) or self._tokenizer.is_silent(token_id):
            return ""
        window = self._tokenizer.decode(self._ids[self._start :])
        fresh = window[self._given :]
        self._given = len(window)
        self._text += fresh
        self._slide()
        return fresh

    def push_all(self, ids: Sequence[int]) -> str:
        return "".join([self.push(one) for one in ids])

    def finish(self) -> str:
        rest = self._tokenizer.decode(self._ids)[len(self._text) :]
        self._text += rest
        return rest

    def _slide(self) -> None:
        """Move the window's start on, to a token that has text of its own."""
        if len(self._ids) - self._start <= 2 * _WINDOW:
            return
        for start in range(len(self._ids) - _WINDOW, self._start, -1):
            if self._is_anchor(self._ids[start]):
                self._start = start
                self._given = len(self._tokenizer.decode(self._ids[start:]))
                return

    def _is_anchor(self, token_id: int) -> bool:
        tokenizer = self._tokenizer
        if tokenizer.is_silent(token_id) or tokenizer.is_byte(token_id):
            return False
        return bool(tokenizer.decode([token_id]).strip())


def _joined_bytes(ids: Iterable[int]) -> bytes:
    try:
        return bytes([one for one in ids if one != EOS_BYTE])
    except (ValueError, TypeError) as error:
        raise BadTokenizer(f'an id of "{BYTES_TOKENIZER}" is 0 to {EOS_BYTE}') from error


def _has_byte_level_decoder(decoder: Any) -> bool:
    match decoder:
        case {"type": "ByteLevel"}:
            return True
        case {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}:
            return True
        case _:
            return False


def _printable_bytes() -> dict[str, int]:
    """Return GPT-2's alphabet: the character that stands for each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(kept)]
    return {chr(byte): byte for byte in kept} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES: Final = _printable_bytes()


def _byte_level_bytes(token: str) -> bytes:
    # A token with a character outside of the alphabet (an added one) is its own text.
    if all(character in _BYTES for character in token):
        return bytes([_BYTES[character] for character in token])
    return token.encode()
