"""The pages say what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.api.errors import ROUTING, STATUS
from marketplace.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
API = (ROOT / "docs" / "api.md").read_text()


def test_the_page_of_settings_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "settings_page.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_is_on_the_page_and_described() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"`TALLYSTICK_{name.upper()}`" in page


@pytest.mark.parametrize(("status", "kind"), sorted(set(STATUS.values())))
def test_every_status_is_in_the_table_of_errors(status: int, kind: str) -> None:
    assert re.search(rf"^\| {status} \| `{kind}` \|", API, re.MULTILINE)


def test_codes_of_the_framework_are_in_the_table_of_errors() -> None:
    for status, code in ROUTING.items():
        assert re.search(rf"^\| {status} \| .*`{code}`", API, re.MULTILINE)
