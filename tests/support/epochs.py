"""A settled epoch on a real chain, and a coordinator that publishes it as a test wants."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from marketplace.domain.receipts import TakenReceipt
from provider.config import ProviderConfig
from tallystick.anvil import anvil_key
from tallystick.protocol.eip712 import Domain, offer_hash, sign_receipt
from tallystick.protocol.receipts import offer_of
from tests.support import books
from tests.support.agents import a_config
from tests.support.anvil import COORDINATOR
from tests.support.chains import EvmDriver, address
from tests.support.hubs import listening
from tests.support.nodes import key_of
from tests.support.settling import Town, town

CONSUMER, SAVER, OPERATOR = 3, 4, 5
"""Anvil's accounts: one that consents as it goes, one that authorized, and one that serves."""


@dataclass
class Published:
    """The town, where its epochs are served, and a lever on what is served."""

    town: Town
    base_url: str
    epoch: int
    change: Callable[[bytes], bytes] = field(default=bytes)
    status: int = 200

    @property
    def driver(self) -> EvmDriver:
        """The chain's levers."""
        assert isinstance(self.town.driver, EvmDriver)
        return self.town.driver

    @property
    def rpc_url(self) -> str:
        """Where the chain answers."""
        return self.driver.market.deployment.rpc_url

    def provider(self) -> ProviderConfig:
        """Return the operator's configuration."""
        place = self.driver.market.deployment
        return a_config(
            coordinator=self.base_url,
            rpc_url=self.rpc_url,
            ledger=place.ledger,
            stake=place.stake,
            token=place.token,
            operator=address(OPERATOR),
        )

    async def file(self) -> bytes:
        """Return the epoch's file."""
        row = await self.town.epoch(self.epoch)
        assert row is not None
        return self.town.files.path(row.file_hash).read_bytes()

    def market_object(self) -> dict[str, Any]:
        """Return what `/v1/market` says."""
        place = self.driver.market.deployment
        return {
            "chain_id": place.chain_id,
            "contracts": {"ledger": place.ledger, "stake": place.stake, "token": place.token},
            "coordinator": anvil_key(COORDINATOR).address,
            "fee_bps": 500,
            "rpc_url": self.rpc_url,
            "local": True,
        }


@asynccontextmanager
async def published_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Published]:
    """Give a market whose one epoch charges two consumers, one by consent, and pays an operator."""
    async with town("anvil", folder) as made:
        monkeypatch.setattr("tests.support.settling.books.taken", _signing(made.driver.domain))
        first = await made.consumer(CONSUMER, 10 * books.USD)
        second = await made.consumer(SAVER, 10 * books.USD, authorized=5 * books.USD)
        await made.work(first, OPERATOR, 2 * books.USD, parts=2)
        await made.work(second, OPERATOR, 3 * books.USD)
        await made.sign(CONSUMER, 2 * books.USD)
        number = await made.end_epoch()
        await made.settle()
        assert await made.epoch(number) is not None
        stand = Published(made, "", number)
        async with listening(_app(stand)) as url:
            stand.base_url = f"{url}/v1"
            yield stand


def _signing(domain: Domain) -> Callable[..., TakenReceipt]:
    plain = books.taken

    def taken(job: Any, **fields: Any) -> TakenReceipt:
        made = plain(job, node=key_of(1).address, **fields)
        receipt = made.signed.receipt
        receipt = msgspec.structs.replace(receipt, offer_hash=offer_hash(offer_of(receipt)))
        return replace(made, signed=sign_receipt(domain, receipt, key_of(1)))

    return taken


def _app(stand: Published) -> Starlette:
    async def market(request: Request) -> Response:
        return Response(msgspec.json.encode(stand.market_object()), media_type="application/json")

    async def epoch(request: Request) -> Response:
        if stand.status != 200 or request.path_params["number"] != stand.epoch:
            return Response(b'{"error": {"message": "not here"}}', status_code=max(stand.status, 404))
        return Response(stand.change(await stand.file()), media_type="application/octet-stream")

    return Starlette(routes=[Route("/v1/market", market), Route("/v1/epochs/{number:int}", epoch)])
