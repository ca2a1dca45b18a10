"""Where the coordinator's CPU time goes: py-spy samples who holds the interpreter, one room a sample."""

import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.benches.gateway.machine import LOAD_CORE, pin
from scripts.benches.gateway.others import install_py_spy
from scripts.benches.gateway.ours import Target

RATE: Final = 250
ROOMS: Final = (
    (
        "books: statements and commits",
        ("marketplace/storage/", "marketplace/services/ledger/", "sqlalchemy/"),
    ),
    ("receipts: checked and signed for", ("domain/receipt_checks.py", "services/taking.py", "coincurve/")),
    ("prompts: template and tokenizer", ("tallystick/models/",)),
    (
        "nodes: frames and websocket",
        ("marketplace/transport/", "websockets/", "websockets_sansio", "protocol/frames.py"),
    ),
    ("dispatch: choosing, attempts, slots", ("marketplace/services/", "marketplace/domain/")),
    ("HTTP: dialect, JSON, answers", ("marketplace/api/",)),
    ("HTTP: routes and middleware", ("starlette/", "fastapi/")),
    ("HTTP: parsing and writing", ("uvicorn/",)),
    (
        "chain and scheduled work",
        ("marketplace/chain/", "web3/", "apscheduler/", "aiohttp/", "tallystick/evm/"),
    ),
)
"""A sample belongs to the first room that its innermost frame of a known file is in."""
LOOP: Final = "event loop and the rest"


def profiled(target: Target, home: Path, load: Callable[[], None], seconds: float) -> list[tuple[str, float]]:
    """Return the share of each room while `load` runs, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "samples"
        command = [
            *(str(install_py_spy(home)), "record", "--gil", "--format", "raw", "--rate", str(RATE)),
            *("--duration", str(max(2, int(seconds) - 1)), "--output", str(raw)),
            *("--pid", str(target.process_id)),
        ]
        spying = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        pin(spying.pid, LOAD_CORE)
        load()
        spying.wait(seconds + 60)
        return shares(raw.read_text())


def shares(samples: str) -> list[tuple[str, float]]:
    """Return the share of each room in py-spy's raw lines: `outer (file:line);inner (file:line) count`."""
    counts: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[_room(stack.split(";"))] += int(count)
    total = sum(counts.values()) or 1
    return [(room, count / total) for room, count in counts.most_common()]


def _room(frames: list[str]) -> str:
    for frame in reversed(frames):
        for room, places in ROOMS:
            if any(place in frame for place in places):
                return room
    return LOOP
