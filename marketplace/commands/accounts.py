"""`tallystick accounts …`: the market's accounts, for its operator."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from marketplace.commands.books import DataDir
from marketplace.commands.opened import now_ms, read_books, write_books
from marketplace.domain.errors import MarketError
from marketplace.services.suspension import ACTIVE, SUSPENDED, find_account, set_account_status
from marketplace.storage.queries import accounts, keys
from marketplace.storage.tables import Account
from tallystick.commands.console import AsJson, facts, foreseen, show
from tallystick.protocol.money import NanoUsd, format_usd

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="See the market's accounts, suspend one, and let it go on.",
    epilog="Example: tallystick accounts suspend carol@example.com",
)
Name = Annotated[str, typer.Argument(help="The account's id, e-mail address or wallet address.")]


@app.command("list")
@foreseen(MarketError, ValueError)
def list_accounts(
    status: Annotated[str, typer.Option(help="Only accounts that are `active` or `suspended`.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    after: Annotated[str, typer.Option(help="Go on after this account's id.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List accounts by id, with what they have, have spent and have earned.

    Example: tallystick accounts list --status suspended
    """
    found = read_books(
        data_dir, lambda session: accounts.page(session, after=after, limit=limit, status=status)
    )
    show({"accounts": [_line(one) for one in found]}, as_json, _lines)


@app.command("show")
@foreseen(MarketError, ValueError)
def show_account(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one account with everything that the books say of its money, and its API keys.

    Example: tallystick accounts show carol@example.com
    """
    told = read_books(data_dir, lambda session: _whole(find_account(session, name)) | _keys(session, name))
    show(told, as_json, facts)


@app.command("suspend")
@foreseen(MarketError, ValueError)
def suspend(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Refuse an account's keys and sessions within a second. Jobs that run end as ever and are charged.

    It can still take its deposit out of the contract, which asks nobody.

    Example: tallystick accounts suspend carol@example.com
    """
    _set_status(name, SUSPENDED, data_dir, as_json)


@app.command("resume")
@foreseen(MarketError, ValueError)
def resume(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Let a suspended account go on.

    Example: tallystick accounts resume carol@example.com
    """
    _set_status(name, ACTIVE, data_dir, as_json)


def _set_status(name: str, status: str, data_dir: Path | None, as_json: bool) -> None:
    now = now_ms()
    changed = write_books(data_dir, lambda session: set_account_status(session, name, status, now))
    show(_line(changed), as_json, facts)


def _line(account: Account) -> dict[str, Any]:
    return {
        "account": account.id,
        "kind": account.kind,
        "who": account.email or account.address or "",
        "status": account.status,
        "balance_usd": _usd(account.balance),
        "held_usd": _usd(account.held),
        "spent_usd": _usd(account.spent),
        "earned_usd": _usd(account.earned + account.earned_pending),
    }


def _whole(account: Account) -> dict[str, Any]:
    return _line(account) | {
        "deposited_usd": _usd(account.deposited),
        "withdrawn_usd": _usd(account.withdrawn),
        "requested_usd": _usd(account.requested),
        "authorized_usd": _usd(account.authorized),
        "consented_usd": _usd(account.consented),
        "spent_matured_usd": _usd(account.spent_matured),
        "spent_settled_usd": _usd(account.spent_settled),
        "earned_matured_usd": _usd(account.earned),
        "earned_settled_usd": _usd(account.earned_settled),
        "acknowledged_usd": _usd(account.acknowledged),
    }


def _keys(session: Any, name: str) -> dict[str, Any]:
    found = keys.of_account(session, find_account(session, name).id)
    return {
        "api_keys": [
            {
                "key": key.id,
                "prefix": key.prefix,
                "scope": key.scope,
                "spent_usd": _usd(key.spent),
                "cap_usd": None if key.cap is None else _usd(key.cap),
                "revoked": key.revoked_at is not None,
            }
            for key in found
        ]
    }


def _usd(amount: int) -> str:
    return format_usd(NanoUsd(amount))


def _lines(told: dict[str, Any]) -> str:
    """Return two lines for each account: other commands want its whole name, too long for a table."""
    amounts = ("balance", "held", "spent", "earned")
    lines = []
    for one in told["accounts"]:
        name = one["account"] if one["account"] == one["who"] else f"{one['account']}  {one['who']}"
        money = ", ".join(f"{amount} ${one[f'{amount}_usd']}" for amount in amounts)
        lines += [escape(name.rstrip()), f"    {one['kind']}, {one['status']}, {money}"]
    return "\n".join(lines) or "There are no such accounts."
