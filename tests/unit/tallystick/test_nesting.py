"""Deeply nested input is refused; it must not get as far as the end of the stack, which ends the process."""

import subprocess
import sys

READERS = (
    'read_chat(b\'{"model": "echo", "messages": [{"a": \' + nest)',
    'read_text(b\'{"model": "echo", "prompt": \' + nest)',
    'msgspec.json.decode(b\'{"email": "x", "a": \' + nest, type=EmailBody)',
    "decode_frames(b'\\x91\\x82\\xa1t\\xa8draining\\xa1x' + b'\\x91' * 900_000 + b'\\xc0')",
    "json.loads(nest)",
)
PROGRAM = """
import json
import marketplace.app
import msgspec
import provider.commands
from marketplace.api.account.sign_up import EmailBody
from marketplace.api.openai.requests import read_chat, read_text
from marketplace.domain.errors import BadRequest
from tallystick.protocol.frames import BadFrame, decode_frames

nest = b"[" * 900_000
for read in {reads!r}:
    try:
        eval(read)
    except (BadRequest, BadFrame, RecursionError, msgspec.DecodeError):
        print("refused")
"""


def test_a_nest_of_nine_hundred_thousand_is_refused() -> None:
    """In a process of its own, with all that a coordinator and an agent import."""
    program = PROGRAM.format(reads=READERS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * len(READERS)), done.stderr[-500:]
