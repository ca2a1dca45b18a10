"""The clients: they ask all the time, and write down every charge that they were told."""

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from scripts.benches.crash.stage import Stage
from tallystick.deployment import Contracts
from tallystick.evm import Wallet
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NANO_PER_USD, NanoUsd
from tallystick.signin import SignIn, personal_digest

DEPOSIT = NanoUsd(50 * NANO_PER_USD)
PAUSE = 0.3
"""Seconds before a client comes again when it got no answer."""
PATIENCE = 20.0


@dataclass(frozen=True)
class Charge:
    """What a client was told when an answer was complete; nano-dollars."""

    account: str
    job: bytes
    charge: int
    receipts: tuple[tuple[bytes, int], ...]


@dataclass
class Record:
    """All that the clients were told, and how often they were told nothing."""

    charges: list[Charge] = field(default_factory=list)
    cut_off: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, status: int, body: bytes) -> None:
        """Count an answer that is none."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            code = f"{status} {json.loads(body)['error']['code']}"
            self.refused[code] = self.refused.get(code, 0) + 1


@dataclass(frozen=True)
class Consumer:
    """An account and its key."""

    account: str
    api_key: str


class Crowd:
    """Clients of some consumers, each in a loop of its own."""

    def __init__(self, stage: Stage, consumers: list[Consumer], record: Record, *, clients: int) -> None:
        self._stage = stage
        self._consumers = consumers
        self._record = record
        self._clients = clients

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Have all clients ask while the block runs; what is on its way at the end is waited for."""
        stop = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as http:
            tasks = [
                asyncio.create_task(self._client(http, self._consumers[number % len(self._consumers)], stop))
                for number in range(self._clients)
            ]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*tasks)

    async def _client(self, http: aiohttp.ClientSession, consumer: Consumer, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._ask(http, consumer)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._record.cut_off += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), PAUSE)

    async def _ask(self, http: aiohttp.ClientSession, consumer: Consumer) -> None:
        """Ask once, in one of the ways that there are; a reader that leaves is told nothing."""
        way = random.choices((_whole, _stream, _leave), (4, 4, 1))[0]
        text = "x" * random.randint(1, 120)
        body = {
            "model": "echo",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 200,
            "stream": way is not _whole,
        }
        headers = {"authorization": f"Bearer {consumer.api_key}"}
        url = f"{self._stage.base_url}/v1/chat/completions"
        async with http.post(url, json=body, headers=headers) as answer:
            if answer.status != 200:
                self._record.refuse(answer.status, await answer.read())
                await asyncio.sleep(PAUSE)
                return
            told = await way(answer)
        if told is not None:
            self._record.charges.append(_charge(consumer, told))


async def _whole(answer: aiohttp.ClientResponse) -> dict[str, Any] | None:
    told: dict[str, Any] = (await answer.json())["tallystick"]
    return told


async def _stream(answer: aiohttp.ClientResponse) -> dict[str, Any] | None:
    told = None
    async for line in answer.content:
        if line.startswith(b"data: {"):
            told = json.loads(line[6:]).get("tallystick", told)
    return told


async def _leave(answer: aiohttp.ClientResponse) -> None:
    await answer.content.readline()
    answer.close()


def _charge(consumer: Consumer, told: dict[str, Any]) -> Charge:
    parts = tuple((_bytes(part["receipt"]), int(part["charge_nano_usd"])) for part in told["parts"])
    return Charge(consumer.account, _bytes(told["job_id"]), int(told["charge_nano_usd"]), parts)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


async def open_consumers(stage: Stage, *, wallets: int, on_credit: int, leaving: int = 1) -> list[Consumer]:
    """Open accounts of both kinds at a coordinator that runs, with money for the whole run.

    As many wallets as are `leaving` have asked for some of it back, which the coordinator has to watch.
    """
    for _ in range(leaving):
        await _leaving_wallet(stage)
    async with aiohttp.ClientSession(f"{stage.base_url}/v1/") as http:
        made = [await _wallet_consumer(stage, http) for _ in range(wallets)]
        return made + [await _credit_consumer(http) for _ in range(on_credit)]


async def _credit_consumer(http: aiohttp.ClientSession) -> Consumer:
    told = await _post(http, "accounts", {"email": f"{secrets.token_hex(6)}@example.com"})
    return Consumer(told["account_id"], told["api_key"])


async def _leaving_wallet(stage: Stage) -> None:
    wallet = Wallet(stage.connection, SigningKey(secrets.token_bytes(32)))
    await stage.deposit(wallet, DEPOSIT)
    ledger = Contracts.at(stage.connection, stage.deployment).ledger
    await wallet.send(ledger.prepare("requestWithdrawal", DEPOSIT // 2))


async def _wallet_consumer(stage: Stage, http: aiohttp.ClientSession) -> Consumer:
    key = SigningKey(secrets.token_bytes(32))
    await stage.deposit(Wallet(stage.connection, key), DEPOSIT)
    async with http.get("sessions/nonce") as answer:
        terms = await answer.json()
    message = SignIn(
        domain=terms["domain"],
        address=key.address,
        uri=terms["uri"],
        chain_id=terms["chain_id"],
        nonce=terms["nonce"],
        issued_at=datetime.now(UTC),
        expires_at=datetime.now(UTC) + timedelta(minutes=5),
    ).text()
    signature = "0x" + key.sign_digest(personal_digest(message)).hex()
    token = (await _post(http, "sessions", {"message": message, "signature": signature}))["token"]
    made = await _post(http, "keys", {"name": "bench"}, {"authorization": f"Bearer {token}"})
    return Consumer(key.address, made["key"])


async def _post(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> dict[str, Any]:
    async with http.post(path, json=body, headers=headers) as answer:
        told: dict[str, Any] = await answer.json()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {told}")
    return told


async def answers(
    stage: Stage, path: str, is_good: Callable[[int], bool] = lambda status: status == 200
) -> bool:
    """Return whether the coordinator answers a GET as it should."""
    try:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(stage.base_url + path) as answer:
            return is_good(answer.status)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def until(is_so: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Return whether it was so within some seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await is_so():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True
