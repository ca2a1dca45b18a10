"""Memory of the coordinator while many streams are read slowly."""

import json
import statistics
import subprocess
import time
from typing import Any, Final

from scripts.benches.gateway.machine import LOAD_CORE, module, pin, resident_bytes
from scripts.benches.gateway.ours import Target
from scripts.benches.report import Figure, Report
from scripts.demo_market.processes import DemoFailed

TEXT: Final = "A tally stick was a receipt split in two. " * 150
"""About 6,300 tokens, over a megabyte of events: far more than the sockets between take."""
PACE: Final = 20_000
"""Bytes a second that each reader takes; a stream lasts about a minute."""
LOOKS_PER_MINUTE: Final = 12
WARM_UP: Final = 0.5
"""Before the time that is watched, as a share of it: buffers grow to what the streams need when each has come
to another place."""
MOST_GROWTH: Final = 0.02
"""What counts as none: within the noise of an allocator."""


def watch(target: Target, *, streams: int, minutes: float) -> Report:
    """Keep slow readers busy, and compare the memory at the end with that after the warm-up."""
    body = target.body(TEXT, max_tokens=len(TEXT) + 64, stream=True)
    seconds = minutes * 60 * (1 + WARM_UP)
    options = ["--connections", str(streams), "--seconds", str(seconds), "--pace", str(PACE)]
    reading = subprocess.Popen(module("load", *target.argued(body), *options), stdout=subprocess.PIPE)
    pin(reading.pid, LOAD_CORE)
    looks = _look(target, seconds)
    said, _ = reading.communicate()
    if reading.returncode:
        raise DemoFailed("the slow readers ended with an error")
    return _report(json.loads(said), looks, streams, minutes)


def _look(target: Target, seconds: float) -> list[float]:
    """Return the memory in megabytes, every few seconds."""
    looks = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(60 / LOOKS_PER_MINUTE)
        looks.append(resident_bytes(target.process_id) / 1e6)
    return looks


def _report(load: dict[str, Any], looks: list[float], streams: int, minutes: float) -> Report:
    steady = looks[int(len(looks) * WARM_UP / (1 + WARM_UP)) :]
    fifth = max(1, len(steady) // 5)
    first, last = statistics.median(steady[:fifth]), statistics.median(steady[-fifth:])
    growth = last / first - 1
    figures = [
        Figure(f"answers to {streams} slow readers, with the warm-up", str(load["answers"])),
        Figure("… that failed", str(load["problems"]), "0", load["problems"] == 0),
        Figure("memory after the warm-up / at the end, MB", f"{first:.0f} / {last:.0f}"),
        Figure(
            f"growth in {minutes:g} minutes", f"{growth:+.1%}", f"≤ {MOST_GROWTH:.0%}", growth <= MOST_GROWTH
        ),
        Figure("most, MB", f"{max(looks):.0f}"),
    ]
    return Report("Gateway: slow readers", figures, {"load": load, "megabytes": looks})
