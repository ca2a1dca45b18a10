"""Processes on chosen cores, and what they use."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil

from scripts.demo_market.processes import DemoFailed

T = TypeVar("T")

CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
GATEWAY_CORE: Final = CORES[0] if CORES else 0
LOAD_CORE: Final = CORES[-1] if CORES else 0
"""The gateways have one core for themselves; all else shares the other one. One core: they share it."""
CHAIN: Final = "anvil"


class Crew:
    """The processes that one benchmark started, in the order in which it did."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(
        self, name: str, command: Sequence[str], *, core: int, environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a command on a core, its output in `<name>.log`; return its process id."""
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        pin(process.pid, core)
        self._running.append((name, process))
        return process.pid

    def wait_for(self, what: str, ready: Callable[[], T | None], seconds: float = 120.0) -> T:
        """Return what `ready` returns once it is not None. Raises DemoFailed if it does not in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._check()
            if (found := ready()) is not None:
                return found
            time.sleep(0.2)
        raise DemoFailed(f"{what} did not happen within {seconds:.0f} s; the logs are in {self._logs}")

    def stop(self, *names: str) -> None:
        """End the named processes, all of them without a name; the last started first."""
        ending = [one for one in reversed(self._running) if not names or one[0] in names]
        for _, process in ending:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for _, process in ending:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running = [one for one in self._running if one not in ending]

    def _check(self) -> None:
        for name, process in self._running:
            if process.poll() is not None:
                tail = (self._logs / f"{name}.log").read_text(errors="replace")[-1500:]
                raise DemoFailed(f"{name} ended with code {process.returncode}:\n{tail}")


def pin(process_id: int, core: int) -> None:
    """Keep a process, its threads and what it starts later on one core, where the system can."""
    if CORES:
        for thread in psutil.Process(process_id).threads():
            os.sched_setaffinity(thread.id, {core})


def cpu_seconds(*process_ids: int) -> float:
    """Return the CPU seconds of processes so far, with those of their helpers, without the local chain's."""
    seconds = 0.0
    for process_id in process_ids:
        for process in family(process_id):
            used = process.cpu_times()
            seconds += used.user + used.system
    return seconds


def resident_bytes(process_id: int) -> int:
    """Return how much memory a process and its helpers hold."""
    return sum(process.memory_info().rss for process in family(process_id))


def family(process_id: int) -> list[psutil.Process]:
    """Return a process and what it started, without the local chain."""
    first = psutil.Process(process_id)
    return [first, *(one for one in first.children(recursive=True) if one.name() != CHAIN)]


def pause(*process_ids: int) -> None:
    """Stop processes, and what they started, in their tracks: those that are not measured cost nothing."""
    _signal(signal.SIGSTOP, process_ids)


def resume(*process_ids: int) -> None:
    """Let paused processes go on."""
    _signal(signal.SIGCONT, process_ids)


def _signal(number: int, process_ids: Sequence[int]) -> None:
    for process_id in process_ids:
        first = psutil.Process(process_id)
        for process in [first, *first.children(recursive=True)]:
            process.send_signal(number)


def module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs one of this package's modules."""
    return [sys.executable, "-m", f"scripts.benches.gateway.{name}", *arguments]


def run_json(command: Sequence[str], *, core: int) -> Any:
    """Run a command on a core, with its output as JSON. Raises DemoFailed with what it said."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pin(process.pid, core)
    said, complained = process.communicate()
    if process.returncode:
        raise DemoFailed(f"{' '.join(command[:3])} failed:\n{complained.decode(errors='replace')[-1500:]}")
    return json.loads(said)
