"""What this machine has to offer, in a line for the market and in numbers for `doctor`."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine: processor, cores, memory (bytes) and graphics processors by name."""

    processor: str
    cores: int
    memory: int
    accelerators: tuple[str, ...]

    def line(self) -> str:
        """Return it in one line, the accelerators first."""
        parts = [
            *self.accelerators,
            f"{self.processor}, {self.cores} cores",
            f"{self.memory / 2**30:.0f} GiB",
        ]
        return "; ".join(parts)


def look() -> Hardware:
    """Return this machine's hardware. Torch is not asked: importing it takes seconds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(_processor(), cores, psutil.virtual_memory().total, _accelerators())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators() -> tuple[str, ...]:
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("Apple GPU",)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in told.splitlines() if line.strip())
