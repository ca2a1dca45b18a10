"""The process that runs one stranger's model's template and tokenizer; its parent is `renderer`.

The kernel ends it when a question takes more CPU time than the question says, or the process more memory than
it may have: `python -m tallystick.models.confined`, with a socket for standard input.

    parent ── Setup (once), then Ask, Ask, … ──▶ child
           ◀── one Answer to each ─────────────
"""

import contextlib
import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tallystick.models.chat import BadMessages, BadTemplate, compile_template, render_chat
from tallystick.models.manifest import OPAQUE_TOKENIZER, Manifest
from tallystick.models.tokenizer import BadTokenizer, Tokenizer, load_tokenizer

LENGTH: Final = struct.Struct(">I")
PROMPT, MESSAGES, TEMPLATE, TOKENIZER, LONG = "prompt", "messages", "template", "tokenizer", "long"


class Setup(msgspec.Struct, array_like=True, frozen=True):
    """What the process is for. `tokenizer_file` is empty where the manifest's tokenizer has none."""

    manifest: Manifest
    tokenizer_file: str
    cpu_seconds: float
    memory_bytes: int


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """The ids of `text`, or the prompt for `messages` and its ids, within `cpu_seconds`."""

    messages: list[dict[str, Any]] | None
    text: str
    add_generation_prompt: bool
    cpu_seconds: float


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """`kind` is PROMPT, or whose fault it is that there is none; for LONG, `text` is the number of ids."""

    kind: str
    text: str = ""
    ids: tuple[int, ...] = ()
    cpu_seconds: float = 0.0


decode_answer = msgspec.msgpack.Decoder(Answer).decode
encode = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(Setup).decode
_decode_ask = msgspec.msgpack.Decoder(Ask).decode


class _Model:
    """The model, ready to be asked. Raises BadTokenizer."""

    def __init__(self, setup: Setup) -> None:
        self.manifest = setup.manifest
        self.tokenizer: Tokenizer | None = None
        if setup.manifest.tokenizer != OPAQUE_TOKENIZER:
            blob = Path(setup.tokenizer_file).read_bytes() if setup.tokenizer_file else b""
            self.tokenizer = load_tokenizer(setup.manifest.tokenizer, blob)
        with contextlib.suppress(BadTemplate):  # a text may be continued without it; a chat will say so
            compile_template(setup.manifest)

    def answer(self, ask: Ask) -> Answer:
        """Return the answer, or whose fault it is that there is none."""
        began = time.process_time()
        answer = self._answer(ask)
        return msgspec.structs.replace(answer, cpu_seconds=time.process_time() - began)

    def _answer(self, ask: Ask) -> Answer:
        try:
            text = ask.text
            if ask.messages is not None:
                text = render_chat(self.manifest, ask.messages, ask.add_generation_prompt)
            ids = () if self.tokenizer is None else tuple(self.tokenizer.encode(text))
        except BadMessages as error:
            return Answer(MESSAGES, str(error))
        except BadTemplate as error:
            return Answer(TEMPLATE, str(error))
        except BadTokenizer as error:
            return Answer(TOKENIZER, str(error))
        if len(ids) > self.manifest.context_length:
            return Answer(LONG, str(len(ids)))
        return Answer(PROMPT, text, ids)


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the parent is gone."""
    # Without a handler, also code that never comes back to the interpreter is ended.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError):
        setup = _decode_setup(_read(requests))
        # macOS has no such limit; the CPU time is limited there too.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
        try:
            with _at_most(setup.cpu_seconds):
                model = _Model(setup)
        except BadTokenizer as error:
            _write(answers, Answer(TOKENIZER, str(error)))
            return
        _write(answers, Answer(PROMPT))
        while True:
            ask = _decode_ask(_read(requests))
            with _at_most(ask.cpu_seconds):
                answer = model.answer(ask)
            _write(answers, answer)


@contextlib.contextmanager
def _at_most(cpu_seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def _write(parent: IO[bytes], answer: Answer) -> None:
    data = encode(answer)
    parent.write(LENGTH.pack(len(data)) + data)
    parent.flush()


def _read(parent: IO[bytes]) -> bytes:
    return _exactly(parent, LENGTH.unpack(_exactly(parent, LENGTH.size))[0])


def _exactly(parent: IO[bytes], size: int) -> bytes:
    data = parent.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone
        _serve(os.fdopen(0, "rb"), os.fdopen(os.dup(0), "wb"))
