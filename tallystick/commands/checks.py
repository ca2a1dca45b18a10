"""What a command looked at, and whether it held: for `receipt verify`, `epoch verify` and `doctor`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from tallystick.protocol.keys import BadSignature, recover


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `held` None means that it cannot be told (yet); `advice` what to do."""

    what: str
    held: bool | None
    detail: str
    advice: str = ""


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as one JSON object; `held` says that none failed."""
    failed = [check.what for check in checks if check.held is False]
    open_ = [check.what for check in checks if check.held is None]
    return {
        "held": not failed,
        "failed": failed,
        "open": open_,
        "checks": [asdict(check) for check in checks],
    }


def table(told: dict[str, Any]) -> Table:
    """Return the checks of `document` for people."""
    rows = Table("", "check", box=None, pad_edge=False)
    rows.add_column("what was found", overflow="fold")  # not one character of a hash may be left out
    marks = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "[yellow]…[/yellow]"}
    for check in told["checks"]:
        detail = escape(check["detail"])
        if check["advice"] and not check["held"]:
            detail += f"\n[bold]→ {escape(check['advice'])}[/bold]"
        rows.add_row(marks[check["held"]], check["what"], detail)
    return rows


def signer_of(digest: bytes, signature: bytes) -> str:
    """Return the address that signed, or words that no address equals."""
    try:
        return recover(digest, signature)
    except BadSignature as error:
        return f"nobody ({error})"
