"""The systemd units are well formed, locked down, and start commands that there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tallystick.cli import app as cli

UNITS = sorted((Path(__file__).resolve().parents[3] / "deploy" / "systemd").glob("*.service"))
LOCKS = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "CapabilityBoundingSet=",
    "UMask=0077",
    "User=tallystick",
)


def command_of(unit: Path) -> list[str]:
    """Return what a unit starts, without the path of the program."""
    started = re.search(r"^ExecStart=(\S+) (.+)$", unit.read_text(), re.MULTILINE)
    assert started is not None
    assert started[1] == "/opt/tallystick/bin/tallystick"
    return started[2].split()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_locked_down(unit: Path) -> None:
    text = unit.read_text()
    assert [lock for lock in LOCKS if lock not in text] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    words = command_of(unit)
    options = [word for word in words if word.startswith("--")]
    names = [word for word in words[: words.index(options[0])] if not word.startswith("-")]
    told = CliRunner().invoke(cli, [*names, "--help"], env={"COLUMNS": "200"})
    assert told.exit_code == 0
    assert [option for option in options if option not in told.output] == []


def test_systemd_finds_nothing_amiss(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    copies = []
    for unit in UNITS:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/tallystick/bin/tallystick", "/bin/true"))
        copies.append(str(copy))
    assert len(copies) == 2
    if program is not None:  # not every Unix has systemd
        done = subprocess.run(
            [program, "verify", "--man=no", *copies], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
