"""Chat templates in a process of their own, since they come from strangers.

Jinja's sandbox keeps a template away from the machine, but not from its time and memory: a few lines can loop
for years or fill any memory. Here the kernel ends the process that does. A template that was the end of one
is not tried again for a while.

    parent ── template (once), messages ──▶ child: half a second of CPU a prompt, a gigabyte of memory
           ◀── prompt, or what is wrong ───
"""

import contextlib
import hashlib
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

import msgspec

from tallystick.models.chat import BadMessages, BadTemplate, render_chat
from tallystick.models.manifest import Manifest

CPU_SECONDS: Final = 0.5
MEMORY_BYTES: Final = 1024**3
ANSWER_SECONDS: Final = 20.0
"""The CPU time ends a busy child; this ends the wait for one that gets no CPU."""
TEMPLATES_KEPT: Final = 256
REST_SECONDS: Final = 600.0
"""So rarely is a template tried that was the end of a process; for good would be too long if it was the
messages' fault."""

_LENGTH: Final = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class _Request(msgspec.Struct, array_like=True):
    """One rendering. `manifest` is None for one that the child has been given under this key."""

    key: bytes
    manifest: Manifest | None
    messages: list[dict[str, Any]]
    add_generation_prompt: bool


class _Answer(msgspec.Struct, array_like=True):
    """`kind` is `prompt`, or whose fault it is that there is none: `messages` or `template`."""

    kind: str
    text: str


TOO_MUCH: Final = _Answer("template", "the model's chat template takes too much time or memory")

_decode_request = msgspec.msgpack.Decoder(_Request).decode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class _Gone(Exception):
    """The child has ended, or does not answer."""


class Renderer:
    """Renders foreign templates; the child starts with the first one. Its calls may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._resting: dict[bytes, float] = {}

    def render(
        self, manifest: Manifest, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Return the prompt text for `messages`, as `render_chat` does and with its errors.

        Raises BadTemplate also for a template that takes too much time or memory.
        """
        if not manifest.chat_template:
            return render_chat(manifest, messages, add_generation_prompt)
        key = hashlib.sha256(msgspec.msgpack.encode(manifest)).digest()
        request = _Request(key, manifest, [dict(message) for message in messages], add_generation_prompt)
        with self._lock:
            answer = self._ask(key, request)
        if answer.kind == "messages":
            raise BadMessages(answer.text)
        if answer.kind == "template":
            raise BadTemplate(answer.text)
        return answer.text

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child is not None:
                self._child.end()
            self._child = None

    def _ask(self, key: bytes, request: _Request) -> _Answer:
        if self._resting.get(key, 0.0) > time.monotonic():
            return TOO_MUCH
        for is_fresh in (False, True):
            if self._child is None or is_fresh:
                self._child = _Child()
            try:
                return self._child.ask(request)
            except _Gone:
                self._child.end()
                self._child = None
        # A child that had done nothing else cannot have ended for another reason.
        self._resting[key] = time.monotonic() + REST_SECONDS
        return TOO_MUCH


class _Child:
    """The process, from its parent's side."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tallystick.models.renderer"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._known: set[bytes] = set()
        self.end = weakref.finalize(self, _end, self._process)
        """Kill the process and wait for its end; done at the latest when nobody holds this any more."""

    def ask(self, request: _Request) -> _Answer:
        """Return the child's answer. Raises _Gone."""
        if len(self._known) >= TEMPLATES_KEPT:
            raise _Gone
        given = msgspec.structs.replace(request, manifest=None) if request.key in self._known else request
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            _write(stdin, _encode(given))
            if not select.select((stdout,), (), (), ANSWER_SECONDS)[0]:
                raise _Gone
            answer = _decode_answer(_read(stdout))
        except (OSError, EOFError) as error:
            raise _Gone from error
        self._known.add(request.key)
        return answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    return _exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0])


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the parent is gone."""
    with contextlib.suppress(
        ValueError, OSError
    ):  # macOS has no such limit; the CPU time is limited there too
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Without a handler, also code that never comes back to the interpreter is ended.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known: dict[bytes, Manifest] = {}
    while True:
        try:
            request = _decode_request(_read(requests))
        except EOFError:
            return
        manifest = known[request.key] if request.manifest is None else request.manifest
        known[request.key] = manifest
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = _rendered(manifest, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, _encode(answer))


def _rendered(manifest: Manifest, request: _Request) -> _Answer:
    try:
        return _Answer("prompt", render_chat(manifest, request.messages, request.add_generation_prompt))
    except BadMessages as error:
        return _Answer("messages", str(error))
    except BadTemplate as error:
        return _Answer("template", str(error))


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
