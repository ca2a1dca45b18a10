"""`tallystick coordinator wind-down` and `carry-over`: from one set of contracts to the next."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from marketplace.commands.books import DataDir, local_settings, open_books
from marketplace.commands.coordinator import app
from marketplace.commands.opened import now_ms, read_books
from marketplace.domain.errors import MarketError
from marketplace.services import winding
from marketplace.settings import Settings
from marketplace.storage.ownership import BooksTaken, sole_owner
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.protocol.money import NanoUsd, format_usd

__all__ = ["app"]

PATIENCE_SECONDS: Final = 10
_WAIT: Final = "wait, with a coordinator that takes no new jobs, and look again"
_NEXT: Final[dict[bool | None, str]] = {
    False: "everybody takes what is theirs (docs/operations.md)",
    True: "restart the coordinator with TALLYSTICK_ACCEPT_JOBS=false",
    None: "say where the coordinator of these books answers: set TALLYSTICK_PUBLIC_URL or TALLYSTICK_PORT",
}
"""What to do if the coordinator takes no jobs (and nothing is open any more), takes some, or does not say."""


@app.command("wind-down")
@foreseen(MarketError, ValueError)
def wind_down(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say what is still open in the books of contracts that are to be left. Exit code 0 once nothing is.

    Run the coordinator with TALLYSTICK_ACCEPT_JOBS=false until then (docs/operations.md): one that takes new
    jobs is not wound down.

    Example: tallystick coordinator wind-down
    """
    settings = local_settings(data_dir)
    left, accepts = read_books(data_dir, winding.remaining), accepts_jobs(settings)
    is_down = left.is_wound_down and accepts is False
    told = {"wound_down": is_down, "accepts_jobs": accepts} | _told(left)
    is_waiting = accepts is False and not left.is_wound_down
    show(told | {"next": _WAIT if is_waiting else _NEXT[accepts]}, as_json, facts)
    if not is_down:
        raise typer.Exit(1)


def accepts_jobs(settings: Settings) -> bool | None:
    """Return whether a coordinator runs on the books and takes new jobs; None if it does not say."""
    try:
        with sole_owner(settings.books_url):
            return False
    except BooksTaken:
        pass
    try:
        answer = httpx.get(f"{settings.address}/v1/market", timeout=PATIENCE_SECONDS)
        return bool(answer.raise_for_status().json()["accepts_jobs"])
    except (httpx.HTTPError, ValueError, KeyError):
        return None


@app.command("carry-over")
@foreseen(MarketError, ValueError)
def carry_over(
    old: Annotated[Path, typer.Argument(help="The data directory of the books that were wound down.")],
    abandoned: Annotated[
        bool,
        typer.Option("--abandoned", help="The old books are behind their chain and cannot be wound down."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring accounts, their API keys and their credit from old books into those of new contracts.

    The old coordinator is stopped, the new one has seen the operator's deposit, out of which the credit is
    given anew. Can be run again after it was cut off; nothing comes twice.

    Example: tallystick coordinator carry-over /srv/market-1 --data-dir /srv/market-2
    """
    told = asyncio.run(_carry(Settings(data_dir=old), local_settings(data_dir), abandoned))
    show(told, as_json, facts)


async def _carry(old: Settings, new: Settings, abandoned: bool) -> dict[str, Any]:
    if old.books_url == new.books_url:
        raise CommandFailed("these are the same books; name the new ones with --data-dir")
    moved, credit, taken = 0, 0, []
    with sole_owner(old.books_url):
        async with open_books(old) as source, open_books(new) as target:
            left = await source.read(winding.remaining)
            if not left.is_wound_down and not abandoned:
                raise CommandFailed("the old books are not wound down; see tallystick coordinator wind-down")
            nodes = await source.read(winding.suspended_nodes)
            await target.write(lambda session: winding.keep_suspended(session, nodes))
            for one in await source.read(winding.leaving):
                if not await target.write(_receiving(one)):
                    taken.append(one.id)
                    continue
                await source.write(_releasing(one))
                moved, credit = moved + 1, credit + one.credit
    return {"accounts": moved, "credit_usd": format_usd(NanoUsd(credit)), "left_behind": taken}


def _receiving(one: winding.Carried) -> Any:
    return lambda session: winding.receive(session, one, now_ms())


def _releasing(one: winding.Carried) -> Any:
    return lambda session: winding.release(session, one, now_ms())


def _told(left: winding.Remaining) -> dict[str, Any]:
    told = asdict(left)
    amounts = ("owed", "unconsented", "credit")
    usd = {f"{name}_usd": format_usd(NanoUsd(told.pop(name))) for name in amounts}
    return told | usd
