"""A test of PostgreSQL that is skipped fails the run."""

import subprocess
import sys
from pathlib import Path

import tests.conftest

ROOT = Path(__file__).resolve().parents[2]
RULE = "tests.support.required"
SKIPPED = """
import pytest

@pytest.mark.postgres
def test_needs_the_server():
    pytest.skip("no server today")

def test_needs_something_else():
    pytest.skip("no something else")
"""


def test_a_skipped_test_of_postgresql_fails(tmp_path: Path) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", RULE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 skipped" in done.stdout
    assert "no server today" in done.stdout


def test_the_rule_holds_for_every_test() -> None:
    assert tests.conftest.pytest_runtest_makereport.__module__ == RULE
