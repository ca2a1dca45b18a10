"""`tallystick books …`: the books, opened where they lie; a coordinator may run on them meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.table import Table

from marketplace.domain.errors import MarketError
from marketplace.services.audit_books import Report, audit_books
from marketplace.settings import Settings
from marketplace.storage.database import Database
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.protocol.money import format_usd

FILE_URL: Final = "sqlite+pysqlite:///"

app = typer.Typer(
    no_args_is_help=True,
    help="Look into the books of the coordinator on this machine.",
    epilog="Example: tallystick books verify",
)

DataDir = Annotated[
    Path | None,
    typer.Option(help="The coordinator's data directory; TALLYSTICK_DATA_DIR or .tallystick by default."),
]


@app.callback()
def _group() -> None:
    """What needs no more than the open books is here; the rest of the group is in `keeping`."""


@app.command("verify")
@foreseen(MarketError, ValueError)
def verify(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Add up the books: every balance against the journal, the jobs and the receipts.

    Nothing is written, and a running coordinator goes on. Exit code 0 if everything adds up.

    Example: tallystick books verify --data-dir /var/lib/tallystick
    """
    report = asyncio.run(_audit(local_settings(data_dir)))
    show(_told(report), as_json, _rendered)
    if report.findings:
        raise typer.Exit(1)


def local_settings(data_dir: Path | None) -> Settings:
    """Return the settings of the coordinator on this machine, for another data directory if one is given."""
    return Settings() if data_dir is None else Settings(data_dir=data_dir)


@asynccontextmanager
async def open_books(settings: Settings) -> AsyncIterator[Database]:
    """Give the books, which must exist already. Raises CommandFailed if they do not, or Unavailable."""
    _require_books(settings.books_url)
    database = await Database.open(settings.books_url)
    try:
        yield database
    finally:
        await database.close()


def _require_books(url: str) -> None:
    """Raise CommandFailed for a file that is not there: opening it would make empty books."""
    path = Path(url.removeprefix(FILE_URL))
    if url.startswith(FILE_URL) and not path.is_file():
        raise CommandFailed(
            f"there are no books at {path}; start the coordinator there first (tallystick up), or name its "
            "--data-dir"
        )


async def _audit(settings: Settings) -> Report:
    async with open_books(settings) as books:
        return await books.read(audit_books)


def _told(report: Report) -> dict[str, Any]:
    return {
        "held": not report.findings,
        "accounts": report.accounts,
        "receipts": report.receipts,
        "charged_usd": format_usd(report.charged),
        "findings": [
            {
                "subject": one.subject,
                "rule": one.rule,
                "expected_nano_usd": str(one.expected),
                "found_nano_usd": str(one.found),
            }
            for one in report.findings
        ],
    }


def _rendered(told: dict[str, Any]) -> Group:
    head = facts({name: told[name] for name in ("accounts", "receipts", "charged_usd")})
    if told["held"]:
        return Group(head, "[green]✓[/green] the books add up")
    rows = Table("subject", "rule", "expected", "found", box=None, pad_edge=False)
    for one in told["findings"]:
        rows.add_row(*(str(value) for value in one.values()))
    return Group(head, "[red]✗[/red] the books do not add up (amounts in nano-dollars)", rows)
