"""`tallystick logs`: several files by time, filtered by level, followed over a rotation."""

import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tallystick.cli import app
from tallystick.commands.logs import LogFile, read_logs


def write(path: Path, *entries: dict[str, Any]) -> None:
    """Add entries to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def an_entry(second: int, event: str, level: str = "info") -> dict[str, Any]:
    """Return an entry as structlog writes it."""
    return {"timestamp": f"2026-01-01T00:00:{second:02}Z", "level": level, "event": event}


def test_two_logs_are_shown_in_the_order_of_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    write(one, an_entry(1, "a"), an_entry(3, "c"))
    write(two, an_entry(2, "b"), an_entry(4, "d"))
    assert [entry["event"] for entry in read_logs([one, two], 3, follow=False)] == ["b", "c", "d"]


def test_a_half_written_line_is_not_shown_before_it_is_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_text('{"event": "a"}\n{"event": ')
    assert log.last(10) == [{"event": "a"}]
    assert log.fresh() == []
    with log.path.open("a") as file:
        file.write('"b"}\nnot json\n')
    assert log.fresh() == [{"event": "b"}, {"event": "not json"}]


def test_following_goes_on_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, an_entry(1, "before"))
    told = read_logs([path], 10, follow=True)
    assert next(told)["event"] == "before"

    def rotate() -> None:
        time.sleep(0.1)
        path.rename(tmp_path / "log.1")
        write(path, an_entry(2, "x"))

    thread = threading.Thread(target=rotate)
    thread.start()
    assert [entry["event"] for entry in itertools.islice(told, 1)] == ["x"]
    thread.join()


def test_the_command_finds_this_machines_logs_and_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TALLYSTICK_PROVIDER_HOME", str(tmp_path / "agent"))
    nothing = CliRunner().invoke(app, ["logs"])
    assert (nothing.exit_code, nothing.stderr.count("\n")) == (1, 1)
    write(tmp_path / "data" / "coordinator.log", an_entry(1, "up"), an_entry(3, "alarm", "error"))
    write(tmp_path / "agent" / "agent.log", an_entry(2, "link_lost [x]", "warning"))
    shown = CliRunner().invoke(app, ["logs", "--level", "warning", "--json"])
    assert [json.loads(line)["event"] for line in shown.stdout.splitlines()] == ["link_lost [x]", "alarm"]
    words = CliRunner().invoke(app, ["logs", "-n", "2"]).stdout
    assert "link_lost [x]" in words
    assert "up" not in words
    assert "no level" in CliRunner().invoke(app, ["logs", "--level", "loud"]).stderr
