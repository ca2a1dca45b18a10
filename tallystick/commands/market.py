"""What every consumer's command needs: the market's API, and the chain behind it."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import httpx
from rich.markup import escape

from tallystick.commands.console import CommandFailed, errors
from tallystick.commands.credentials import Credentials, home, load_credentials, write_private
from tallystick.consents import default_directory
from tallystick.evm import Connection, Contract, Wallet
from tallystick.evm.connection import connected
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import SigningKey
from tallystick.sdk.answers import TallystickError
from tallystick.sdk.core import raise_for_status
from tallystick.sdk.pins import MarketChanged, check_market
from tallystick.sdk.reading import Body


class Unreachable(CommandFailed):
    """Nobody answers at the market's address."""


class Api:
    """The coordinator's API, with this person's credentials."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.credentials = credentials or load_credentials()

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **query: Any
    ) -> Any:
        """Return the JSON of one call, made with `token`, else the stored API key or session.

        Raises TallystickError with the coordinator's words, CommandFailed if it cannot be reached.
        """
        secret = token or self.credentials.api_key or self.credentials.session
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        with (
            self._http() as http,
            http.stream(method, path.lstrip("/"), json=body, params=query, headers=headers) as given,
        ):
            answer = _json(given)
        raise_for_status(given.status_code, {k.lower(): v for k, v in given.headers.items()}, answer)
        return answer

    def download(self, path: str, into: IO[bytes]) -> int:
        """Write the bytes at `path` into a file as they come; return how many they are.

        Raises TallystickError, CommandFailed if it cannot be reached.
        """
        wanted = {"Accept": "application/octet-stream"}
        with self._http() as http, http.stream("GET", path.lstrip("/"), headers=wanted) as given:
            if given.status_code != 200:
                raise_for_status(given.status_code, dict(given.headers), _json(given))
            size = sum(into.write(piece) for piece in given.iter_bytes(1 << 20))
        into.flush()
        return size

    @contextmanager
    def _http(self) -> Iterator[httpx.Client]:
        try:
            with httpx.Client(base_url=self.credentials.base_url, timeout=30.0) as http:
                yield http
        except httpx.HTTPError as error:
            raise Unreachable(
                f"{self.credentials.base_url} cannot be reached ({error}); "
                "set TALLYSTICK_URL if it is elsewhere"
            ) from error

    def market(self) -> "MarketInfo":
        """Return which chain and contracts the market is on.

        When its coordinator is out of reach, this is what it said last: whoever has money in the contracts
        must be able to leave without it. Raises CommandFailed if it names other contracts than before.
        """
        told = self._market()
        contracts = told["contracts"]
        info = MarketInfo(
            chain_id=int(told["chain_id"]),
            ledger=to_address(contracts["ledger"]),
            stake=to_address(contracts["stake"]),
            token=to_address(contracts["token"]),
            coordinator=to_address(told["coordinator"]),
            rpc_url=self.credentials.rpc_url or told.get("rpc_url") or "",
            is_local=bool(told.get("local")),
        )
        try:
            check_market(default_directory() / "ledgers.json", self.credentials.base_url, info.domain)
        except MarketChanged as error:
            raise CommandFailed(str(error)) from error
        return info

    def _market(self) -> Any:
        path = home() / "markets.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        try:
            told = self.call("GET", "/market")
        except Unreachable as error:
            if self.credentials.base_url not in known:
                raise
            errors.print(f"{escape(str(error))}\nGoing on with what it said last.", style="yellow")
            return known[self.credentials.base_url]
        if known.get(self.credentials.base_url) != told:
            write_private(path, json.dumps(known | {self.credentials.base_url: told}, indent=2))
        return told


@dataclass(frozen=True, slots=True)
class MarketInfo:
    """Where the market's contracts are, and through which node they are reached."""

    chain_id: int
    ledger: Address
    stake: Address
    token: Address
    coordinator: Address
    rpc_url: str
    is_local: bool

    @property
    def domain(self) -> Domain:
        """The domain of receipts, consents and cheques."""
        return Domain(chain_id=self.chain_id, contract=self.ledger)


@dataclass(frozen=True, slots=True)
class OnChain:
    """The market's contracts through an open connection."""

    connection: Connection
    ledger: Contract
    stake: Contract
    token: Contract

    def wallet(self, secret: bytes) -> Wallet:
        """Return the sender of a key."""
        return Wallet(self.connection, SigningKey(secret))


@asynccontextmanager
async def on_chain(market: MarketInfo) -> AsyncIterator[OnChain]:
    """Give the market's contracts; the connection is closed at the end.

    Raises CommandFailed without an RPC address, or if it serves another chain.
    """
    if not market.rpc_url:
        raise CommandFailed("which node of the chain should be asked? Set TALLYSTICK_RPC_URL to its address")
    async with connected(market.rpc_url) as connection:
        if connection.chain_id != market.chain_id:
            raise CommandFailed(
                f"{market.rpc_url} serves chain {connection.chain_id}, the market is on {market.chain_id}"
            )
        yield OnChain(
            connection,
            Contract(connection, market.ledger, "Ledger"),
            Contract(connection, market.stake, "Stake"),
            Contract(connection, market.token, "TestUSD"),
        )


def _json(given: httpx.Response) -> Any:
    body = Body()
    for piece in given.iter_bytes():
        body.add(piece)
    try:
        return json.loads(body.whole())
    except (ValueError, RecursionError) as error:
        raise TallystickError(
            given.status_code,
            f"{given.url} does not answer as a coordinator; set TALLYSTICK_URL if it is elsewhere",
        ) from error
