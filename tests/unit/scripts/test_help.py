"""`--help` answers before anything is set up."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.mark.parametrize(("script", "says"), [("demo", "--epoch-seconds"), ("test", "go to pytest")])
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_needs_no_setup(tmp_path: Path, script: str, says: str, asked: str) -> None:
    there = tmp_path / "scripts"
    there.mkdir()
    for needed in (script, "lib.sh"):
        shutil.copy(SCRIPTS / needed, there)
    (there / "demo_market").mkdir()
    for module in ("__init__.py", "options.py"):
        shutil.copy(SCRIPTS / "demo_market" / module, there / "demo_market")
    done = subprocess.run(
        [f"scripts/{script}", asked], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert says in done.stdout
    assert done.stderr == ""
    assert [one.name for one in tmp_path.iterdir()] == ["scripts"]
