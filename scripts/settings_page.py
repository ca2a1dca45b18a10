"""Makes docs/settings.md from marketplace/settings.py, so that no setting is undocumented."""

import ast
import sys
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from marketplace import settings as module  # noqa: E402 - the path comes first
from marketplace.settings import Settings  # noqa: E402

PAGE: Final = ROOT / "docs" / "settings.md"
HEAD: Final = """\
# Settings of the coordinator

Made from `marketplace/settings.py` by `scripts/docs`; change them there.

Each is an environment variable, or a line of a `.env` file in the directory where the coordinator starts.
Amounts are US dollars, as decimals. The options of `tallystick up` win over the environment; `tallystick up
--local` chooses faster values for what nobody set. A value that makes no sense stops the start and is named.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for title, names in _sections():
        parts += [f"\n## {title}\n", "| variable | default | what it is |", "|---|---|---|"]
        parts += [_row(name, Settings.model_fields[name]) for name in names]
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def _sections() -> list[tuple[str, list[str]]]:
    """Return the settings under the comments that head them in the source."""
    lines = Path(module.__file__).read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    body = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "Settings").body
    fields = [one for one in body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    sections: list[tuple[str, list[str]]] = []
    for field in fields:
        above = lines[field.lineno - 2].strip()
        if above.startswith("# "):
            sections.append((above.removeprefix("# "), []))
        sections[-1][1].append(field.target.id)  # type: ignore[union-attr]  # a Name, as above
    return sections


def _row(name: str, field: FieldInfo) -> str:
    what = (field.description or "").replace("|", "\\|")
    bounds = _bounds(field)
    return f"| `TALLYSTICK_{name.upper()}` | {_default(field)} | {what}{bounds} |"


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case "" | None | () | {}:
            return "–"
        case _:
            return f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " One of " + ", ".join(f"`{one}`" for one in get_args(field.annotation)) + "."
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    found = [
        f"{word} {getattr(limit, mark)}"
        for limit in field.metadata
        for mark, word in words.items()
        if hasattr(limit, mark)
    ]
    return f" ({', '.join(found)})" if found else ""


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    made = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text() == made:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is not what marketplace/settings.py says; run ./scripts/docs")
        return 1
    PAGE.write_text(made)
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
