"""Starts the market's commands as processes of their own, and ends them in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TALLYSTICK = str(Path(sys.executable).with_name("tallystick"))


class DemoFailed(Exception):
    """A step did not do what it should; the message says which, and where its log is."""


def free_port(wanted: int) -> int:
    """Return `wanted` if nothing listens there, else a port that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.close()
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                return int(other.getsockname()[1])
        return wanted


class Processes:
    """The processes of one demo and their logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, arguments: Sequence[str]) -> int:
        """Start `tallystick …` in the background, with its output in `<name>.log`; return its process id."""
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [TALLYSTICK, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._running.append((name, process))
        return process.pid

    def forget_ended(self, prefix: str) -> list[str]:
        """Return the names with this prefix whose processes have ended; `check` asks no more about them."""
        ended = [
            (name, process)
            for name, process in self._running
            if name.startswith(prefix) and process.poll() is not None
        ]
        self._running = [one for one in self._running if one not in ended]
        return [name for name, _ in ended]

    def check(self) -> None:
        """Raise DemoFailed if a process has ended by itself."""
        for name, process in self._running:
            if process.poll() is not None:
                log = self.directory / f"{name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise DemoFailed(f"{name} ended with code {process.returncode}; the end of {log}:\n{tail}")

    def wait_for(self, what: str, ready: Callable[[], Any], seconds: float = 180.0) -> Any:
        """Return what `ready` returns once it is not None, while all processes live."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            if (found := ready()) is not None:
                return found
            time.sleep(0.5)
        raise DemoFailed(f"{what} did not happen within {seconds:.0f} s; the logs are in {self.directory}")

    def stop(self) -> None:
        """End all processes, the last started first; those that do not leave in ten seconds are killed."""
        for _, process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for _, process in reversed(self._running):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


def command(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Any:
    """Run `tallystick … --json` and return its document. Raises DemoFailed with what it said."""
    done = subprocess.run(
        [TALLYSTICK, *arguments, "--json"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if done.returncode:
        raise DemoFailed(
            f"`tallystick {' '.join(arguments)}` failed: {done.stderr.strip() or done.stdout.strip()}"
        )
    return json.loads(done.stdout) if done.stdout.strip() else None


def together(commands: Iterable[Sequence[str]], environment: dict[str, str] | None = None) -> list[Any]:
    """Run commands that do not depend on each other at once; return their documents, in order."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda arguments: command(arguments, environment), commands))
