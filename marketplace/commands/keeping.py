"""`tallystick books …`, whole: looking at the books, and keeping them small and safe."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from marketplace.commands.books import FILE_URL, DataDir, app, local_settings, open_books
from marketplace.commands.catching_up import catch_up
from marketplace.commands.opened import now_ms
from marketplace.domain.errors import MarketError
from marketplace.services.keeping import (
    EPOCHS,
    Contents,
    Places,
    check_unpacked,
    copy_database,
    put_in_place,
    unpacked,
    write_archive,
)
from marketplace.services.pruning import Pruned, prune, sweep_leftovers
from marketplace.services.settlement.files import EpochFiles
from marketplace.settings import Settings
from marketplace.storage.ownership import sole_owner
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.deployment import BadDeployment, Deployment

__all__ = ["app", "catch_up"]


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


@app.command("backup")
@foreseen(MarketError, ValueError, OSError)
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write.")],
    force: Annotated[bool, typer.Option("--force", help="Write over an archive that is there.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the books, the epochs' files, the deployment and the catalog to one file; a coordinator may run.

    Keys are not in it: keep `keys/` elsewhere, once. Books in PostgreSQL are backed up with pg_dump.

    Example: tallystick books backup /srv/backup/books-2026-08-01.tar
    """
    settings = local_settings(data_dir)
    places = places_of(settings)
    if not places.database.is_file():
        raise CommandFailed(f"there are no books at {places.database}")
    if file.exists() and not force:
        raise CommandFailed(f"{file} is there already; choose another name, or add --force")
    contents = write_archive(places, file, now_ms())
    told = {"archive": str(file), "bytes": file.stat().st_size, "epoch_files": _epochs_in(contents)}
    show(told | {"next": f"tallystick books restore {file} --data-dir …"}, as_json, facts)


@app.command("restore")
@foreseen(MarketError, BadDeployment, ValueError, OSError)
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `books backup` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace books that are there; they are kept under another name.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put books from an archive in place, after every check: hashes, the database, and that they add up.

    The coordinator must be stopped. What happened after the backup is not in it: see docs/operations.md.

    Example: tallystick books restore /srv/backup/books-2026-08-01.tar --data-dir /var/lib/tallystick
    """
    settings = local_settings(data_dir)
    show(asyncio.run(_restore(settings, file, force)), as_json, facts)


async def _restore(settings: Settings, file: Path, force: bool) -> dict[str, Any]:
    places = places_of(settings)
    with sole_owner(settings.books_url), unpacked(file, settings.data_dir) as (folder, contents):
        _check_deployment(settings, folder)
        report = await check_unpacked(folder, contents)
        kept = None
        if places.database.exists():
            if not force:
                raise CommandFailed(
                    f"there are books at {places.database}; to replace them add --force (they are kept)"
                )
            kept = places.database.with_name(f"{places.database.name}.before-{now_ms()}")
            copy_database(places.database, kept)
        put_in_place(folder, contents, places)
    return {
        "books": str(places.database),
        "made_at": datetime.fromtimestamp(contents.made_at / 1000, UTC).isoformat(timespec="seconds"),
        "accounts": report.accounts,
        "receipts": report.receipts,
        "epoch_files": _epochs_in(contents),
        "replaced_books": None if kept is None else str(kept),
        "next": "tallystick books catch-up, with the coordinator's key in its place",
    }


def places_of(settings: Settings) -> Places:
    """Return where the books' parts lie. Raises CommandFailed for books that are not in a file."""
    if not settings.books_url.startswith(FILE_URL):
        raise CommandFailed(
            "these books are in PostgreSQL: keep them with `pg_dump --format=custom` and `pg_restore`, "
            f"and copy {settings.data_dir / 'epochs'} (docs/operations.md)"
        )
    return Places(
        database=Path(settings.books_url.removeprefix(FILE_URL)),
        epochs=settings.data_dir / "epochs",
        others={"deployment.json": settings.deployment_file, "catalog.json": settings.catalog_path},
    )


def _check_deployment(settings: Settings, folder: Path) -> None:
    """Raise CommandFailed for books of another market than the one whose deployment is here."""
    theirs = folder / "deployment.json"
    if not theirs.exists() or not settings.deployment_file.exists():
        return
    ours, of_books = Deployment.load(settings.deployment_file), Deployment.load(theirs)
    if (ours.chain_id, ours.ledger) != (of_books.chain_id, of_books.ledger):
        raise CommandFailed(
            f"these books are of the Ledger {of_books.ledger} on chain {of_books.chain_id}, but "
            f"{settings.deployment_file} names {ours.ledger} on chain {ours.chain_id}"
        )


def _epochs_in(contents: Contents) -> int:
    return sum(name.startswith(EPOCHS + "/") for name in contents.files)


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
        files = EpochFiles(settings.data_dir / "epochs")
        await asyncio.to_thread(sweep_leftovers, files.folder, now_ms())
        return await prune(books, files, before)


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
