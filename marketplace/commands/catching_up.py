"""`tallystick books catch-up`: books from a backup learn what their chain has settled since."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from marketplace.chain.evm import EvmChain
from marketplace.chain.stake import EvmStakeBook
from marketplace.chain.witness import EvmWitness
from marketplace.commands.books import DataDir, app, local_settings, open_books
from marketplace.commands.epoch_sources import EpochSources
from marketplace.domain.errors import MarketError
from marketplace.domain.ports.clock import SystemClock
from marketplace.services import ledger
from marketplace.services.catching_up import CatchUp, CaughtUp, Market
from marketplace.services.deposits import ChainWatcher
from marketplace.services.settlement.behind import check_not_behind
from marketplace.services.settlement.files import EpochFiles
from marketplace.settings import Settings
from marketplace.storage.ownership import sole_owner
from tallystick.commands.console import AsJson, facts, foreseen, show
from tallystick.deployment import BadDeployment, Deployment
from tallystick.evm import EvmError
from tallystick.evm.connection import connected
from tallystick.protocol.money import NanoUsd, format_usd

__all__ = ["app"]


@app.command("catch-up")
@foreseen(MarketError, BadDeployment, EvmError, ValueError, OSError)
def catch_up(
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Where epoch files may be that are not in the data directory: a file, a folder, or the "
            "address of a coordinator that has them (https://…/v1). Can be given several times.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Enter into restored books what the chain has settled since the backup, out of the epochs' files.

    The coordinator must be stopped. Every file is checked against its hash on the chain. Jobs that were
    answered after the backup and are in no closed epoch are not charged: their receipts are with the nodes.

    Example: tallystick books catch-up --from /srv/mirror/epochs --data-dir /var/lib/tallystick
    """
    settings = local_settings(data_dir)
    # What services log goes to where people look, beside the answer.
    with redirect_stdout(sys.stderr):
        told = asyncio.run(_catch_up(settings, sources or ()))
    show(told, as_json, facts)


async def _catch_up(settings: Settings, sources: Sequence[str]) -> dict[str, Any]:
    # The whole coordinator, which the other commands of this group start faster without.
    from marketplace.app import read_key

    place, key = Deployment.load(settings.deployment_file), read_key(settings)
    with sole_owner(settings.books_url):
        async with open_books(settings) as books, connected(settings.rpc_url or place.rpc_url) as connection:
            clock = SystemClock()
            await books.write(lambda session: ledger.ensure_treasury(session, place.owner, clock.now_ms()))
            chain, files = EvmChain(connection, place), EpochFiles(settings.data_dir / "epochs")
            watcher = ChainWatcher(
                books, chain, clock, confirmations=settings.confirmations, first_block=place.deployed_block
            )
            work = CatchUp(
                books,
                chain,
                EvmWitness(connection, place),
                EvmStakeBook(connection, place, clock),
                watcher,
                files,
                Market(place.ledger_domain, place.genesis, place.deployed_block, settings.confirmations),
                key,
                EpochSources(files, sources).bring,
            )
            done = await work.run()
            await check_not_behind(books, chain)
    return _told(done)


def _told(done: CaughtUp) -> dict[str, Any]:
    charged = sum(one.charged for one in done.epochs)
    forgotten = sum(one.forgotten for one in done.epochs)
    return {
        "epochs": [one.number for one in done.epochs],
        "receipts": sum(one.receipts for one in done.epochs),
        "charged_usd": format_usd(NanoUsd(charged)),
        "charged_to_the_operator_usd": format_usd(NanoUsd(forgotten)),
        "cashed_for_lost_work": {who: format_usd(amount) for who, amount in done.beyond.items()},
        "next": "tallystick books verify, then start the coordinator",
    }
