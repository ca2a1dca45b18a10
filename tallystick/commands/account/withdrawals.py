"""Leaving with the money: a request, a thaw, a withdrawal. The coordinator is not needed for any of it."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tallystick.commands.account.money import Yes, _account, _on_chain, _send, _sent
from tallystick.commands.account.open_ import PassphraseFile
from tallystick.commands.console import AsJson, facts, foreseen, show
from tallystick.commands.credentials import load_wallet, passphrase
from tallystick.commands.market import MarketInfo, OnChain
from tallystick.evm import EvmError, Wallet
from tallystick.protocol.money import NanoUsd, format_usd, from_units, parse_usd
from tallystick.sdk.answers import TallystickError

app = typer.Typer()


@app.command("request-withdrawal")
@foreseen(TallystickError, EvmError, ValueError)
def request_withdrawal(
    amount: Annotated[str, typer.Argument(help="Dollars, or `all`.")],
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a part of the deposit back; it can be withdrawn after the thaw. A new request replaces the old.

    Example: tallystick account request-withdrawal all
    """
    secret = load_wallet(passphrase(passphrase_file))

    async def act(chain: OnChain, wallet: Wallet, market: MarketInfo) -> dict[str, Any]:
        recorded = await _account(chain.ledger, wallet.address)
        nano = NanoUsd(recorded["balance"]) if amount == "all" else parse_usd(amount)
        call = chain.ledger.prepare("requestWithdrawal", nano)
        mined = await _send(wallet, call, f"request ${format_usd(nano)} back", yes)
        _, payable_at = await chain.ledger.read("exitOf", wallet.address)
        return _sent(mined) | {"requested_usd": format_usd(nano), "payable_at": _when(payable_at)}

    show(_on_chain(secret, act), as_json, facts)


@app.command("withdraw")
@foreseen(TallystickError, EvmError, ValueError)
def withdraw(yes: Yes = False, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """Withdraw what was requested, once its thaw is over: the smaller of the request and the balance.

    Example: tallystick account withdraw
    """
    secret = load_wallet(passphrase(passphrase_file))

    async def act(chain: OnChain, wallet: Wallet, market: MarketInfo) -> dict[str, Any]:
        before = await chain.token.read("balanceOf", wallet.address)
        mined = await _send(wallet, chain.ledger.prepare("withdraw"), "withdraw what was requested", yes)
        after = await chain.token.read("balanceOf", wallet.address)
        return _sent(mined) | {"withdrawn_usd": format_usd(from_units(after - before))}

    show(_on_chain(secret, act), as_json, facts)


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
