"""The coordinator's log file: JSON lines, whole, and bounded."""

import json
from pathlib import Path

from marketplace.logs import FileCopy


def test_each_event_is_a_json_line_and_is_passed_on(tmp_path: Path) -> None:
    copy = FileCopy(tmp_path / "logs" / "coordinator.log")
    event = {"event": "node_left", "level": "info", "path": tmp_path}
    assert copy(None, "info", event) is event
    copy(None, "error", {"event": "broke", "exc_info": True})
    copy.close()
    first, second = map(json.loads, (tmp_path / "logs" / "coordinator.log").read_text().splitlines())
    assert first == {"event": "node_left", "level": "info", "path": str(tmp_path)}
    assert second == {"event": "broke"}


def test_a_full_file_is_kept_once_and_begun_anew(tmp_path: Path) -> None:
    copy = FileCopy(tmp_path / "coordinator.log", most_bytes=100)
    for number in range(20):
        copy(None, "info", {"event": "x" * 30, "number": number})
    kept = [tmp_path / "coordinator.log", tmp_path / "coordinator.log.1"]
    assert sorted(tmp_path.iterdir()) == kept
    assert all(path.stat().st_size <= 160 for path in kept)
    copy(None, "info", {"event": "after"})
    copy.close()
    assert json.loads(kept[0].read_text().splitlines()[-1]) == {"event": "after"}
