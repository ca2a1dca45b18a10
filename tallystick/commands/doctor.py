"""`tallystick doctor`: whether this machine, its market, its account and its chain can work together."""

import asyncio
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from importlib.util import find_spec

import httpx
import typer

from tallystick.anvil import AnvilMissing, find_anvil
from tallystick.commands.checks import Check, document, table
from tallystick.commands.console import AsJson, CommandFailed, foreseen, show
from tallystick.commands.credentials import Credentials, home, load_credentials
from tallystick.commands.market import Api, MarketInfo, on_chain
from tallystick.evm import EvmError
from tallystick.protocol.ids import to_address
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.sdk.answers import TallystickError

PARTS = {
    "coordinator": ("fastapi", "sqlmodel", "uvicorn"),
    "provider": ("psutil", "structlog"),
    "transformers": ("torch", "transformers"),
}
LEAST_FREE_BYTES = 2 * 1024**3
MOST_CLOCK_SECONDS = 60


@foreseen(ValueError)
def doctor(as_json: AsJson = False) -> None:
    """Check this machine, the market, your account and the chain; say what to do about what is wrong.

    Nothing is sent and nothing is paid. A provider's own checks are: tallystick provider doctor. Exit code 0
    if nothing failed.

    Example: tallystick doctor
    """
    credentials = load_credentials()
    api = Api(credentials)
    checks = [*_machine(), _market(credentials), _account(api), _wallet()]
    if checks[-3].held:
        checks.append(_chain(api.market()))
    told = document(checks)
    show(told, as_json, table)
    if not told["held"]:
        raise typer.Exit(1)


def _machine() -> list[Check]:
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return [
        Check("python", sys.version_info >= (3, 11), python, "install Python 3.11 or later"),
        _disk(),
        *(_part(name, modules) for name, modules in PARTS.items()),
        _anvil(),
    ]


def _disk() -> Check:
    place = home() if home().exists() else home().parent
    free = shutil.disk_usage(place if place.exists() else "/").free
    return Check("disk", free >= LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB free at {place}", "make room")


def _part(name: str, modules: tuple[str, ...]) -> Check:
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return Check(f"part {name}", True, "installed")
    # Not everybody needs every part, so a missing one is no failure.
    return Check(
        f"part {name}", None, f"not installed ({', '.join(missing)})", f"pip install 'tallystick[{name}]'"
    )


def _anvil() -> Check:
    try:
        return Check("local chain", True, f"Anvil at {find_anvil()}")
    except AnvilMissing as error:
        return Check("local chain", None, str(error), "only `tallystick up --local` needs it")


def _market(credentials: Credentials) -> Check:
    advice = "start one with: tallystick up --local, or set TALLYSTICK_URL to the market's address"
    try:
        given = httpx.get(f"{credentials.base_url.rstrip('/')}/market", timeout=10)
        told = given.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return Check(
            "market",
            False,
            f"{credentials.base_url} does not answer as a coordinator: {_line(error)}",
            advice,
        )
    if (away := _clock_difference(given)) > MOST_CLOCK_SECONDS:
        return Check(
            "market", False, f"its clock and ours are {away:.0f} s apart", "set this machine's clock"
        )
    return Check(
        "market", True, f"{credentials.base_url}, chain {told['chain_id']}, share {told['fee_bps'] / 100:g} %"
    )


def _line(error: Exception) -> str:
    """Return the first line of what a library says; the others are links to its own help."""
    return str(error).split("\n")[0]


def _clock_difference(given: httpx.Response) -> float:
    stated = given.headers.get("date")
    return abs(time.time() - parsedate_to_datetime(stated).timestamp()) if stated else 0.0


def _account(api: Api) -> Check:
    if not api.credentials.api_key:
        advice = "tallystick account sign-up EMAIL, or tallystick account create-wallet and sign-in"
        return Check("account", None, "no API key is stored on this machine", advice)
    return _asked("account", lambda: _balance(api), "make a new key: tallystick account sign-in")


def _balance(api: Api) -> str:
    told = api.call("GET", "/balance")
    return f"${format_usd(NanoUsd(int(told['available_nano_usd'])))} can be spent"


def _asked(what: str, ask: Callable[[], str], advice: str) -> Check:
    try:
        return Check(what, True, ask())
    except (TallystickError, CommandFailed, KeyError) as error:
        return Check(what, False, str(error), advice)


def _wallet() -> Check:
    path = home() / "wallet.json"
    if not path.exists():
        return Check(
            "wallet", None, "none: you spend credit, or nothing yet", "tallystick account create-wallet"
        )
    if path.stat().st_mode & 0o077:
        return Check("wallet", False, f"{path} can be read by others", f"chmod 600 {path}")
    stored = json.loads(path.read_text())
    return Check("wallet", True, to_address("0x" + stored["address"].removeprefix("0x")))


def _chain(market: MarketInfo) -> Check:
    async def act() -> str:
        async with on_chain(market) as chain:
            block = await chain.connection.block()
            if not await chain.connection.has_code(market.ledger):
                raise CommandFailed(f"there is no Ledger at {market.ledger} on chain {market.chain_id}")
            return f"chain {market.chain_id} at {market.rpc_url}, block {block.number if block else 0}"

    try:
        return Check("chain", True, asyncio.run(act()))
    except (EvmError, CommandFailed) as error:
        return Check("chain", False, str(error), "set TALLYSTICK_RPC_URL to a node of the market's chain")
