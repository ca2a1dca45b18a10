"""What is kept between starts: hashes of large files, and models made ready to load.

A ready model is a folder named by what it was made from, and it appears whole or not at all, so that
several agents on one machine can share the cache.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def default_cache_dir() -> Path:
    """Return where models are kept unless the configuration says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tallystick" / "models"


def models_dir(configured: Path | str | None) -> Path:
    """Return where models are kept, with the configuration's word for it."""
    return Path(configured).expanduser() if configured else default_cache_dir()


def file_sha256(path: Path, cache_dir: Path) -> str:
    """Return the SHA-256 of a file in hex; remembered while its path, size and time of change stay."""
    about = path.stat()
    key = f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    note = cache_dir / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if note.is_file():
        return note.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(note, digest.encode())
    return digest


def ready_folder(cache_dir: Path, key: dict[str, object], make: Callable[[Path], None]) -> Path:
    """Return the folder for `key`, filled by `make` the first time. One process makes it, others wait."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir / name
    if folder.is_dir():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _lock(cache_dir / f"{name}.lock"):
        if folder.is_dir():
            return folder
        draft = cache_dir / f"{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        make(draft)
        draft.rename(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
