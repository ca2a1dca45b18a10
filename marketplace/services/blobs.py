"""The files of the catalog's models: tokenizers, each named by its SHA-256.

A file stays because a model in the books names it. What was stored for a model that did not get in is removed
again, at the next start at the latest.
"""

import asyncio
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from marketplace.domain.errors import Refused
from marketplace.storage.failpoints import reach

log = structlog.get_logger(__name__)

MEGABYTE: Final = 1024 * 1024
_OURS: Final = re.compile(r"[0-9a-f]{64}(\.\d+\.part)?")


class NotAdmitted(Refused):
    """The model does not come into the catalog."""

    code = "model_not_admitted"


class Blobs:
    """The files in a folder; those that models name have at most `most_bytes` together."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._named: dict[str, int] = {}

    def path(self, digest: str) -> Path:
        """Return where the file with a SHA-256 (hexadecimal) is, or would be."""
        return self._folder / digest

    async def read(self, digest: str) -> bytes:
        """Return a file, empty if it is missing or damaged."""
        return await asyncio.to_thread(_read, self.path(digest), digest)

    def check_room(self, digest: str, size: int) -> None:
        """Raise NotAdmitted unless a file of `size` bytes fits in beside those that models name."""
        used = sum(self._named.values())
        if digest not in self._named and used + size > self._most_bytes:
            raise NotAdmitted(
                f"the catalog is full: its tokenizers have {used} bytes, this one has {size}, and "
                f"{self._most_bytes} is the most (TALLYSTICK_CATALOG_BYTES)"
            )

    async def store(self, digest: str, blob: bytes) -> None:
        """Keep a file; it is there whole or not at all."""
        await asyncio.to_thread(_store, self.path(digest), blob)

    def name(self, digest: str) -> None:
        """A model in the books names this file."""
        path = self.path(digest)
        self._named[digest] = path.stat().st_size if path.is_file() else 0

    def drop(self, digest: str) -> None:
        """Remove a file, unless a model names it."""
        if digest not in self._named:
            self.path(digest).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove all files that no model names, such as a killed process left behind."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in self._named:
                log.info("blob_removed", blob=path.name, reason="no model names it")
                path.unlink()


def _read(path: Path, digest: str) -> bytes:
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        return b""
    return blob if sha256(blob).hexdigest() == digest else b""


def _store(path: Path, blob: bytes) -> None:
    if _read(path, path.name):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.part")
    half.write_bytes(blob)
    reach("catalog.file_staged")
    half.replace(path)
    reach("catalog.file_stored")
