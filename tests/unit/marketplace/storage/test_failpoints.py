"""A fail point kills the process at its turn, and does nothing otherwise."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
from marketplace.storage.failpoints import reach
for number in range(3):
    reach("here")
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    ("armed", "printed", "status"),
    [
        ("", "0 1 2", 0),
        ("elsewhere", "0 1 2", 0),
        ("here", "", -signal.SIGKILL),
        ("here:2", "0", -signal.SIGKILL),
        ("here:9", "0 1 2", 0),
    ],
)
def test_a_process_is_killed_at_its_turn(armed: str, printed: str, status: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TALLYSTICK_FAILPOINT": armed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout.split(), ran.returncode) == (printed.split(), status)
