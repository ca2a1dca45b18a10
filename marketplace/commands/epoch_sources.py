"""Where an epoch's file may be: a file, a folder, or a coordinator or mirror that still has it."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import httpx

from marketplace.services.settlement.files import EpochFiles
from tallystick.commands.console import CommandFailed

PATIENCE_SECONDS: Final = 60
PIECE: Final = 1 << 20


class EpochSources:
    """Brings files from `sources` into the folder of epoch files; only what has the hash that is wanted."""

    def __init__(self, files: EpochFiles, sources: Sequence[str]) -> None:
        self._files = files
        self._addresses = [one.rstrip("/") for one in sources if one.startswith(("http://", "https://"))]
        self._paths = [Path(one) for one in sources if not one.startswith(("http://", "https://"))]

    async def bring(self, number: int, file_hash: bytes, most: int) -> None:
        """Look for the file of an epoch everywhere, and stop when it is there. Raises CommandFailed.

        What is longer than `most` bytes is not it, and is read no further.
        """
        places = chain(
            (_read(path) for path in self._candidates(file_hash)),
            (_fetched(f"{address}/epochs/{number}") for address in self._addresses),
        )
        for pieces in places:
            staged = self._files.stage(_up_to(pieces, most))
            if staged.hash == file_hash:
                self._files.keep(staged)
                return
            staged.path.unlink()

    def _candidates(self, file_hash: bytes) -> Iterator[Path]:
        """Give the files that may be it: in a folder that has one of this name, no other."""
        for path in self._paths:
            if not path.exists():
                raise CommandFailed(f"{path}, named with --from, is not there")
            named = path / file_hash.hex()
            if path.is_file() or named.is_file():
                yield path if path.is_file() else named
            else:
                yield from sorted(one for one in path.iterdir() if one.is_file())


def _up_to(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Give the pieces until they are more than `most` bytes together."""
    left = most
    for piece in pieces:
        if len(piece) > left:
            return
        left -= len(piece)
        yield piece


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _fetched(url: str) -> Iterator[bytes]:
    """Give what is at an address, nothing if it has none. Raises CommandFailed if nobody answers."""
    wanted = {"accept": "application/octet-stream"}
    try:
        with httpx.stream("GET", url, headers=wanted, timeout=PATIENCE_SECONDS) as answer:
            if answer.status_code == httpx.codes.OK:
                yield from answer.iter_bytes(PIECE)
    except httpx.HTTPError as error:
        raise CommandFailed(f"{url} cannot be reached: {error}") from error
