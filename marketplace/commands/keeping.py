"""`tallystick books …`, whole: looking at the books, and keeping them small and safe."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Group

from marketplace.commands.books import DataDir, app, local_settings, open_books
from marketplace.domain.errors import MarketError
from marketplace.services.pruning import Pruned, prune
from marketplace.services.settlement.files import EpochFiles
from marketplace.settings import Settings
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show

__all__ = ["app"]


@app.command("prune")
@foreseen(MarketError, ValueError)
def prune_books(
    before: Annotated[
        str, typer.Option(help="A date (2026-08-01, in UTC), or how long ago in days (90d).")
    ] = "90d",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take receipts of epochs that were closed before a day out of the books; a coordinator may run.

    The epochs' files keep them, and prove them as before; an epoch whose file is missing or damaged keeps its
    receipts here (exit code 1). Accounts no longer list what was pruned. The books still add up.

    Example: tallystick books prune --before 90d
    """
    settings, until = local_settings(data_dir), moment(before)
    pruned = asyncio.run(_prune(settings, round(until.timestamp() * 1000)))
    show(_told(pruned, until), as_json, _rendered)
    if pruned.kept:
        raise typer.Exit(1)


def moment(text: str) -> datetime:
    """Return the beginning of a day (2026-08-01) or a time so many days ago (90d), in UTC."""
    if text.endswith("d") and text[:-1].isdecimal():
        return datetime.now(UTC) - timedelta(days=int(text[:-1]))
    try:
        return datetime.combine(datetime.strptime(text, "%Y-%m-%d"), datetime.min.time(), UTC)  # noqa: DTZ007
    except ValueError as error:
        raise CommandFailed(f"{text!r} is neither a date like 2026-08-01 nor days like 90d") from error


async def _prune(settings: Settings, before: int) -> Pruned:
    async with open_books(settings) as books:
        return await prune(books, EpochFiles(settings.data_dir / "epochs"), before)


def _told(pruned: Pruned, until: datetime) -> dict[str, Any]:
    return {
        "before": until.isoformat(timespec="seconds"),
        "receipts_pruned": pruned.receipts,
        "jobs_pruned": pruned.jobs,
        "epochs": pruned.epochs,
        "epochs_kept": [{"epoch": number, "why": why} for number, why in pruned.kept],
    }


def _rendered(told: dict[str, Any]) -> Group:
    return Group(facts(told))
