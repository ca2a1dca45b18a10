"""`tallystick books …`: the books, opened where they lie; a coordinator may run on them meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from marketplace.chain.evm import EvmChain
from marketplace.chain.witness import EvmWitness
from marketplace.domain.errors import MarketError
from marketplace.services.audit import Chainside, audit
from marketplace.services.audit_books import Finding, Report
from marketplace.services.settlement.files import EpochFiles
from marketplace.settings import Settings
from marketplace.storage.database import Database
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.deployment import BadDeployment, Deployment
from tallystick.evm import Connection, EvmError, NodeUnreachable
from tallystick.evm.connection import connected
from tallystick.protocol.money import format_usd

FILE_URL: Final = "sqlite+pysqlite:///"

app = typer.Typer(
    no_args_is_help=True,
    help="Verify, back up, restore and prune the books of the coordinator on this machine.",
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
@foreseen(MarketError, BadDeployment, EvmError, ValueError)
def verify(
    data_dir: DataDir = None,
    with_chain: Annotated[
        bool, typer.Option("--chain/--no-chain", help="Whether to hold the books against the chain too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check the books to the nano-dollar: against themselves, every receipt, the epochs' files and the chain.

    Every balance is added up from the journal, the jobs and the receipts; every receipt is held against what
    its node signed; every epoch makes its file again, whose hash is on the chain; and every account is held
    against the Ledger's. Nothing is written, and a running coordinator goes on. Exit code 0 if all adds up.

    Example: tallystick books verify --data-dir /var/lib/tallystick
    """
    report = asyncio.run(_audit(local_settings(data_dir), with_chain))
    show(_told(report, with_chain), as_json, _rendered)
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


async def _audit(settings: Settings, with_chain: bool) -> Report:
    files = EpochFiles(settings.data_dir / "epochs")
    async with open_books(settings) as books:
        place = Deployment.load(settings.deployment_file)
        if not with_chain:
            return await audit(books, files, place.ledger_domain, None)
        async with _connected(settings.rpc_url or place.rpc_url) as connection:
            side = Chainside(EvmChain(connection, place), EvmWitness(connection, place), place.deployed_block)
            return await audit(books, files, place.ledger_domain, side)


@asynccontextmanager
async def _connected(rpc_url: str) -> AsyncIterator[Connection]:
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(connected(rpc_url))
        except NodeUnreachable as error:
            raise CommandFailed(
                f"{error.text}; with --no-chain the books are checked without it, which tells less"
            ) from error
        yield connection


def _told(report: Report, with_chain: bool) -> dict[str, Any]:
    return {
        "held": not report.findings,
        "with_chain": with_chain,
        "accounts": report.accounts,
        "receipts": report.receipts,
        "charged_usd": format_usd(report.charged),
        "findings": [_finding(one) for one in report.findings],
    }


def _finding(one: Finding) -> dict[str, Any]:
    """Amounts are in nano-dollars; what is no amount is in `detail`."""
    said = {"subject": one.subject, "rule": one.rule}
    if one.detail:
        return said | {"expected_nano_usd": None, "found_nano_usd": None, "detail": one.detail}
    amounts = {"expected_nano_usd": str(one.expected), "found_nano_usd": str(one.found)}
    return said | amounts | {"detail": None}


def _rendered(told: dict[str, Any]) -> Group:
    head = facts({name: told[name] for name in ("accounts", "receipts", "charged_usd")})
    if told["held"]:
        against = "and agree with the chain" if told["with_chain"] else "(the chain was not asked)"
        return Group(head, f"[green]✓[/green] the books add up {against}")
    rows = Table("subject", "rule", "expected", "found", box=None, pad_edge=False)
    for one in told["findings"]:
        said = (one["expected_nano_usd"], one["found_nano_usd"])
        shown = (one["detail"], "") if one["detail"] else said
        rows.add_row(*(escape(str(value)) for value in (one["subject"], one["rule"], *shown)))
    return Group(head, "[red]✗[/red] the books do not add up (amounts in nano-dollars)", rows)
