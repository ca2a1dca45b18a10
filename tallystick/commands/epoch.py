"""`tallystick epoch …`: what was settled, checked against the chain by whoever wants to."""

import asyncio
import tempfile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tallystick.commands.checks import document, table
from tallystick.commands.console import AsJson, CommandFailed, foreseen, show
from tallystick.commands.epoch_checks import check_epoch
from tallystick.commands.market import Api, on_chain
from tallystick.evm import EvmError
from tallystick.sdk.answers import TallystickError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Check yourself what was settled.",
    epilog="Example: tallystick epoch verify 12",
)


@app.command("list")
@foreseen(TallystickError, ValueError)
def list_epochs(as_json: AsJson = False) -> None:
    """List the latest epochs that settled something, newest first.

    Example: tallystick epoch list
    """
    show(Api().call("GET", "/epochs"), as_json, _epochs)


@app.command("download")
@foreseen(TallystickError, ValueError, OSError)
def download(
    epoch: Annotated[int, typer.Argument(help="The epoch's number.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Where the file goes; epoch-N.bin by default.")
    ] = None,
) -> None:
    """Download an epoch's file, so that it can be checked when the coordinator is gone.

    Example: tallystick epoch download 12 --to epoch-12.bin
    """
    path = to or Path(f"epoch-{epoch}.bin")
    with path.open("wb") as file:
        size = Api().download(f"/epochs/{epoch}", file)
    typer.echo(f"{path}: {size} bytes")


@app.command("verify")
@foreseen(TallystickError, EvmError, ValueError, OSError)
def verify(
    epoch: Annotated[int, typer.Argument(help="The epoch's number.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="The epoch's file, if it is here already.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an epoch: the file's hash, the root, every receipt, every consent, and that the rows balance.

    The file comes from the coordinator, everything it is held against from the chain. Exit code 0 if nothing
    failed.

    Example: tallystick epoch verify 12
    """
    api = Api()
    market = api.market()
    with tempfile.TemporaryFile() if file is None else file.open("rb") as source:
        size = file.stat().st_size if file else api.download(f"/epochs/{epoch}", source)
        if not size:
            raise CommandFailed(f"the file of epoch {epoch} is empty")
        # Mapped, not read: a large epoch's file would fill the memory.
        data = mmap(source.fileno(), 0, access=ACCESS_READ)

    async def act() -> dict[str, Any]:
        async with on_chain(market) as chain:
            return document(await check_epoch(epoch, data, market, chain))

    told = {"epoch": epoch} | asyncio.run(act())
    show(told, as_json, table)
    if not told["held"]:
        raise typer.Exit(1)


def _epochs(told: dict[str, Any]) -> Table:
    rows = Table("epoch", "state", "receipts", "chunks", "gas", box=None, pad_edge=False)
    rows.add_column("root", overflow="fold")
    for one in told["data"]:
        rows.add_row(
            str(one["epoch"]),
            one["state"],
            str(one["receipt_count"]),
            str(one["chunks"]),
            str(one["gas_used"]),
            one["receipts_root"],
        )
    return rows
