import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch")
from provider.engines.base import EngineRefused
from provider.engines.transformers_engine.cache import file_sha256, ready_folder
from provider.engines.transformers_engine.sources import find_source


def test_a_files_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = file_sha256(file, tmp_path / "cache")
    assert first == hashlib.sha256(b"one").hexdigest()
    about = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file_sha256(file, tmp_path / "cache") == first, "size and time are those remembered"
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert file_sha256(file, tmp_path / "cache") == hashlib.sha256(b"two").hexdigest()


def test_a_folder_is_made_once_however_many_want_it(tmp_path: Path) -> None:
    made = []

    def make(draft: Path) -> None:
        time.sleep(0.05)
        made.append(draft)
        (draft / "model").write_text("ready")

    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: ready_folder(tmp_path, {"a": 1}, make), range(8)))
    assert len(made) == 1
    assert {(folder / "model").read_text() for folder in folders} == {"ready"}
    assert ready_folder(tmp_path, {"a": 2}, make) not in folders


def test_what_failed_half_way_is_made_anew(tmp_path: Path) -> None:
    def fails(draft: Path) -> None:
        (draft / "half").write_text("x")
        raise EngineRefused("engine", "disk full")

    with pytest.raises(EngineRefused):
        ready_folder(tmp_path, {"a": 1}, fails)
    folder = ready_folder(tmp_path, {"a": 1}, lambda draft: None)
    assert list(folder.iterdir()) == []


def test_a_model_is_found_in_a_folder_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.Q4_1.gguf").write_bytes(b"")
    for found in (find_source(str(tmp_path)), find_source(str(tmp_path / "tiny.Q4_1.gguf"))):
        assert (found.name, found.folder, found.gguf) == ("tiny.Q4_1", tmp_path, "tiny.Q4_1.gguf")
    (tmp_path / "second.gguf").write_bytes(b"")
    with pytest.raises(EngineRefused, match="not exactly one"):
        find_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert find_source(str(tmp_path)).gguf is None
    with pytest.raises(EngineRefused, match="pickled"):
        find_source(str(tmp_path)).weight_files()
