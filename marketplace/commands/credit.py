"""`tallystick credit …`: what the operator of a coordinator gives to accounts without a wallet."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Group
from rich.table import Table
from sqlalchemy.orm import Session

from marketplace.commands.books import DataDir, local_settings, open_books
from marketplace.domain.errors import MarketError
from marketplace.services import credit
from marketplace.services.credit import CreditBook, CreditLine
from tallystick.commands.console import AsJson, facts, foreseen, show
from tallystick.protocol.money import NanoUsd, format_usd, parse_usd

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    help="Give credit to email accounts, out of the operator's own deposit.",
    epilog="Example: tallystick credit grant carol@example.com 5",
)
Email = Annotated[str, typer.Argument(help="The account's e-mail address.")]
Amount = Annotated[str, typer.Argument(help="How many dollars, such as 5 or 0.25.")]
Reference = Annotated[
    str, typer.Option(help="A payment's or invoice's number; the same one is never granted twice.")
]


@app.command("grant")
@foreseen(MarketError, ValueError)
def grant(
    email: Email, usd: Amount, reference: Reference = "", data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Give an account credit. It can be spent at once, also while the coordinator runs.

    Grants can never exceed the operator's deposit that is not promised yet.

    Example: tallystick credit grant carol@example.com 5 --reference invoice-17
    """
    amount, now = parse_usd(usd), _now_ms()
    line = _write(data_dir, lambda session: credit.grant(session, email, amount, reference, now))
    show({"given_usd": format_usd(amount)} | _line(line), as_json, facts)


@app.command("revoke")
@foreseen(MarketError, ValueError)
def revoke(
    email: Email, usd: Amount, reference: Reference = "", data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Take credit back: at most what is neither spent nor set aside for a job that runs.

    Example: tallystick credit revoke carol@example.com 5
    """
    amount, now = parse_usd(usd), _now_ms()
    revoked, line = _write(data_dir, lambda session: credit.revoke(session, email, amount, reference, now))
    show({"revoked_usd": format_usd(revoked)} | _line(line), as_json, facts)


@app.command("list")
@foreseen(MarketError, ValueError)
def list_credit(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the accounts on credit, and what the operator's deposit still covers.

    Example: tallystick credit list
    """

    async def act() -> CreditBook:
        async with open_books(local_settings(data_dir)) as books:
            return await books.read(credit.credit_book)

    show(_book(asyncio.run(act())), as_json, _table)


def _write(data_dir: Path | None, work: Callable[[Session], T]) -> T:
    async def act() -> T:
        async with open_books(local_settings(data_dir)) as books:
            return await books.write(work)

    return asyncio.run(act())


def _line(line: CreditLine) -> dict[str, Any]:
    return {
        "account": line.account_id,
        "email": line.email,
        "status": line.status,
        "granted_usd": format_usd(line.granted),
        "spent_usd": format_usd(line.spent),
        "held_usd": format_usd(line.held),
        "available_usd": format_usd(NanoUsd(line.balance - line.held)),
    }


def _book(book: CreditBook) -> dict[str, Any]:
    return {
        "deposit_usd": format_usd(book.deposit),
        "promised_usd": format_usd(book.promised),
        "free_usd": format_usd(book.free),
        "accounts": [_line(line) for line in book.lines],
    }


def _table(told: dict[str, Any]) -> Group:
    rows = Table("email", "granted", "spent", "held", "available", "status", box=None, pad_edge=False)
    for one in told["accounts"]:
        names = ("email", "granted_usd", "spent_usd", "held_usd", "available_usd", "status")
        rows.add_row(*(one[name] for name in names))
    return Group(facts({name: told[name] for name in ("deposit_usd", "promised_usd", "free_usd")}), rows)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
