"""How much of a coordinator's answer is read: a broken or hostile one must not fill its client's memory."""

from typing import Final

from tallystick.sdk.answers import Interrupted, TallystickError

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""What one event of a stream may have; one with many likelihoods has a hundred thousand."""
MAX_BODY_BYTES: Final = 64 * 1024 * 1024


class Body:
    """A whole body, as its pieces come."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Take a piece. Raises TallystickError for a body that is over MAX_BODY_BYTES."""
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            raise TallystickError(0, f"the coordinator's answer is over {MAX_BODY_BYTES} bytes")
        self._pieces.append(piece)

    def whole(self) -> bytes:
        """Return what came."""
        return b"".join(self._pieces)


class Lines:
    """The lines of a stream, as its pieces come. Only line feeds end them: texts have other separators."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def add(self, piece: bytes) -> list[str]:
        """Return the lines that `piece` completes. Raises Interrupted for one that is over MAX_LINE_BYTES."""
        *ends, begun = piece.split(b"\n")
        lines = []
        for end in ends:
            self._begin(end)
            lines.append(self.rest())
        self._begin(begun)
        return lines

    def rest(self) -> str:
        """Return the line that has begun; at a stream's end it is the last."""
        line = bytes(self._begun).decode(errors="replace").removesuffix("\r")
        self._begun.clear()
        return line

    def _begin(self, part: bytes) -> None:
        self._begun += part
        if len(self._begun) > MAX_LINE_BYTES:
            raise Interrupted(0, f"the coordinator sent a line of over {MAX_LINE_BYTES} bytes")
