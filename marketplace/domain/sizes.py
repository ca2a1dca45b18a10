"""How much of a message to a node a prompt takes."""

from collections.abc import Iterable, Sequence
from typing import Final

from marketplace.domain.errors import BadRequest
from tallystick.protocol.frames import MAX_MESSAGE_BYTES

MOST_PROMPT_BYTES: Final = MAX_MESSAGE_BYTES * 3 // 4
"""The rest is for the answer so far, which a node that goes on with it is sent too."""
LONGEST_ID: Final = 5
LONGEST_CHARACTER: Final = 4


def check_prompt_fits(ids: Sequence[int], text: str) -> None:
    """Raise BadRequest for a prompt that no node could be sent."""
    if LONGEST_ID * len(ids) + LONGEST_CHARACTER * len(text) <= MOST_PROMPT_BYTES:
        return
    size = ids_bytes(ids) + len(text.encode())
    if size > MOST_PROMPT_BYTES:
        raise BadRequest(
            f"The prompt, with its {len(ids)} tokens, takes {size} bytes on its way to a node; at most "
            f"{MOST_PROMPT_BYTES} are possible. Shorten it.",
            code="prompt_too_large",
            param="messages",
        )


def ids_bytes(ids: Iterable[int]) -> int:
    """Return how many bytes token ids take in MessagePack."""
    return sum(1 if one < 0x80 else 2 if one < 0x100 else 3 if one < 0x10000 else LONGEST_ID for one in ids)
