"""The demo's processes: which may end, and which may not."""

import time
from pathlib import Path

import pytest

from scripts.demo_market.processes import DemoFailed, Processes

ENDS_BY_ITSELF = ["version"]


def test_a_provider_that_ended_is_told_once_and_does_not_end_the_market(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("provider-1", ENDS_BY_ITSELF)

    told: list[str] = []
    while not told:
        time.sleep(0.05)
        told += processes.forget_ended("provider-")

    assert told == ["provider-1"]
    assert processes.forget_ended("provider-") == []
    processes.check()


def test_a_coordinator_that_ended_ends_the_market(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("coordinator", ENDS_BY_ITSELF)

    with pytest.raises(DemoFailed, match="coordinator ended with code 0"):
        processes.wait_for("an end", lambda: processes.forget_ended("provider-") or None, 60)
