"""A fail point kills the process at its turn, and the list of fail points is that of the code."""

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import marketplace
from marketplace.storage.failpoints import FAILPOINTS

PROGRAM = """
from marketplace.storage.failpoints import reach
for number in range(3):
    reach("here")
    print(number, flush=True)
"""
SOURCES = Path(marketplace.__file__).parent
EFFECTS = {"broadcast", "replace", "write_text", "write_bytes", "fsync", "tell", "send"}
"""Methods of services that leave something behind which is no commit of the books: a file, a frame, a
transaction."""
LAST = {
    "attempting.py:_decline": "a refusal owes nobody anything, and the node asks again",
    "nodes.py:_admit_one": "a word to the node's owner; it is said again at the next offer",
    "closing.py:release": "a part that is refused is refused again when the node brings it",
    "closing.py:_tell": "its callers have the fail points",
    "acknowledgements.py:greet": "the same cheque, sent once more",
    "accounts.py:_mail_link": "mailed last; whoever gets no mail asks for another",
    "mail.py:send": "as above",
    "mail.py:_write": "as above",
    "files.py:_sync_folder": "its caller has the fail point",
    "files.py:stage": "what is staged is kept by the caller, who has the fail point, or made again",
    "files.py:keep_tree": "a crown that is lost is made anew",
    "keeping.py:write_archive": "an archive that is cut short is made again",
}
"""Functions whose effect needs no fail point beside it, and why."""


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


def functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Give every function below a folder of the coordinator with `file:name`."""
    for path in sorted((SOURCES / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.name}:{node.name}", node


def calls(function: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(function) if isinstance(node, ast.Call))


def reached(function: ast.AST) -> Iterator[str]:
    """Give the names that a function reaches; they have to be written out."""
    for call in calls(function):
        if isinstance(call.func, ast.Name) and call.func.id == "reach":
            texts = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
            names = [text for text in texts if isinstance(text, str) and "." in text]
            assert names, ast.unparse(call)
            yield from names


def test_every_fail_point_is_listed_and_every_listed_one_is_reached() -> None:
    found = Counter(name for _, function in functions(".") for name in reached(function))
    assert found.keys() == FAILPOINTS.keys()


def test_every_effect_that_is_no_commit_has_a_fail_point_beside_it() -> None:
    bare = set()
    for name, function in functions("services"):
        effects = {
            call.func.attr
            for call in calls(function)
            if isinstance(call.func, ast.Attribute) and call.func.attr in EFFECTS and not _is_of_text(call)
        }
        if effects and not any(reached(function)):
            bare.add(name)
    assert bare - LAST.keys() == set()


def _is_of_text(call: ast.Call) -> bool:
    """Return whether it is `str.replace`, which takes two arguments; a path's takes one."""
    assert isinstance(call.func, ast.Attribute)
    return call.func.attr == "replace" and len(call.args) != 1
