"""Files that a killed process left half-written are removed; those that somebody writes are not."""

import os
import subprocess
import sys
from pathlib import Path

from marketplace.services.pruning import LEFTOVER_MS, sweep_leftovers

NOW = 2_000_000_000_000


def a_file(folder: Path, name: str, age_ms: int) -> Path:
    """Return a file that was written to so long ago."""
    path = folder / name
    path.write_bytes(b"half")
    seconds = (NOW - age_ms) / 1000
    os.utime(path, (seconds, seconds))
    return path


def test_only_leftovers_of_the_dead_are_swept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = LEFTOVER_MS + 1000
    left = [a_file(tmp_path, f"{what}-{ended.pid}.new", old) for what in ("epoch", "crown", "ids")]
    kept = [
        a_file(tmp_path, f"epoch-{os.getpid()}.new", old),
        a_file(tmp_path, f"fresh-{ended.pid}.new", LEFTOVER_MS - 1000),
        a_file(tmp_path, "ab" * 32, old),
        a_file(tmp_path, "cd" * 32 + ".crown", old),
    ]
    assert sweep_leftovers(tmp_path, NOW) == len(left)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert sweep_leftovers(tmp_path / "nowhere", NOW) == 0
