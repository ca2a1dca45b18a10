"""The threat model cites tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CITED = re.compile(r"`((?:test|invariant)_\w+|testFuzz_\w+)`")


def names_of_tests() -> set[str]:
    """Return the names of all tests, of Python and of Solidity."""
    python = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    solidity = (path.read_text() for path in (ROOT / "contracts" / "test").rglob("*.t.sol"))
    return {name for text in python for name in re.findall(r"def (test_\w+)", text)} | {
        name for text in solidity for name in re.findall(r"function (\w+)", text)
    }


def test_every_cited_test_exists() -> None:
    cited = set(CITED.findall((ROOT / "docs" / "security.md").read_text()))
    assert len(cited) > 50
    assert cited - names_of_tests() == set()


def test_every_attack_has_its_test() -> None:
    table = (
        (ROOT / "docs" / "security.md").read_text().partition("## What was tried")[2].partition("\n## ")[0]
    )
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 25
    assert [row for row in rows if not CITED.search(row)] == []
