"""The clients of `bench soak`: what comes in all day, the rude among it."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

MODEL = "echo"
CHAT = "/chat/completions"
PATIENCE = 60.0
"""Seconds; a request that takes longer is counted as an error."""

BAD_BODIES = (
    b"",
    b"{",
    b"[" * 5_000,
    b'{"model": "echo", "messages": [{"role": "user", "content": "\xff"}]}',
    b'{"model": "echo", "messages": [], "max_tokens": -1}',
    b'{"model": "none", "messages": [{"role": "user", "content": "x"}]}',
)


@dataclass
class Tally:
    """What came of the requests. `seconds` are those of whole, plain answers since they were last taken."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)

    def take_seconds(self) -> list[float]:
        """Return the latencies since the last call."""
        taken, self.seconds = self.seconds, []
        return taken


@dataclass
class Visitor:
    """One account's client."""

    http: aiohttp.ClientSession
    key: str
    chance: random.Random
    tally: Tally

    async def visit(self) -> None:
        """Send one request of a kind that chance chooses; what goes wrong is tallied."""
        (kind,) = self.chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])
        doing, _ = KINDS[kind]
        try:
            async with asyncio.timeout(PATIENCE):
                await doing(self)
        except (aiohttp.ClientError, OSError, TimeoutError, Unexpected) as error:
            self.tally.outcomes[f"{kind}: failed"] += 1
            self.tally.problems[f"{kind}: {type(error).__name__} {str(error)[:120]}"] += 1
        else:
            self.tally.outcomes[kind] += 1

    def post(self, body: Any, path: str = CHAT) -> Any:
        """Send a request; `body` is JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        return self.http.post(path.lstrip("/"), data=data, headers=headers)

    def said(self, least: int = 5, most: int = 60) -> str:
        """Return some text."""
        return "".join(self.chance.choices("abcdefghij ", k=self.chance.randint(least, most)))


class Unexpected(Exception):
    """An answer that is not the one that the request deserves."""


def a_chat(text: str, **options: Any) -> dict[str, Any]:
    """Return the body of a request."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": len(text) + 8,
    } | options


async def whole_answer(visitor: Visitor) -> None:
    """Ask, and wait for all of it; the only kind whose time is measured."""
    text = visitor.said()
    began = time.perf_counter()
    async with visitor.post(a_chat(text)) as answer:
        told = await answer.json(content_type=None)
    visitor.tally.seconds.append(time.perf_counter() - began)
    if answer.status != 200 or told["choices"][0]["message"]["content"] != text.strip("\n"):
        raise Unexpected(f"{answer.status} {str(told)[:100]}")


async def stream(visitor: Visitor) -> None:
    """Read a stream to its end."""
    async with visitor.post(a_chat(visitor.said(), stream=True)) as answer:
        read = await answer.read()
    if answer.status != 200 or not read.endswith(b"data: [DONE]\n\n"):
        raise Unexpected(f"{answer.status} … {read[-80:]!r}")


async def leave(visitor: Visitor) -> None:
    """Begin to read a stream, and hang up."""
    async with visitor.post(a_chat(visitor.said(2_000, 4_000), stream=True)) as answer:
        await answer.content.readany()
        answer.close()


async def read_slowly(visitor: Visitor) -> None:
    """Read a stream in small sips for some seconds, and hang up."""
    async with visitor.post(a_chat(visitor.said(2_000, 4_000), stream=True)) as answer:
        for _ in range(20):
            await answer.content.read(16)
            await asyncio.sleep(0.2)
        answer.close()


async def send_garbage(visitor: Visitor) -> None:
    """Send what is no request; a 4xx is the right answer."""
    async with visitor.post(visitor.chance.choice(BAD_BODIES)) as answer:
        await answer.read()
    if not 400 <= answer.status < 500:
        raise Unexpected(str(answer.status))


async def look_around(visitor: Visitor) -> None:
    """Read what a client reads besides."""
    headers = {"authorization": f"Bearer {visitor.key}"}
    for path in ("models", "balance", "receipts?limit=5", "market"):
        async with visitor.http.get(path, headers=headers) as answer:
            await answer.read()
        if answer.status != 200:
            raise Unexpected(f"{path} {answer.status}")


async def open_account(visitor: Visitor) -> None:
    """Open an account and make and revoke a key in it."""
    email = f"soak-{visitor.chance.getrandbits(48):x}@example.com"
    async with visitor.http.post("accounts", json={"email": email}) as answer:
        told = await answer.json()
    headers = {"authorization": f"Bearer {told['token']}"}
    async with visitor.http.post("keys", json={"name": "second"}, headers=headers) as answer:
        key = await answer.json()
    async with visitor.http.delete(f"keys/{key['id']}", headers=headers) as answer:
        await answer.read()
    if answer.status != 200:
        raise Unexpected(str(answer.status))


Kind = Callable[[Visitor], Awaitable[None]]
KINDS: dict[str, tuple[Kind, float]] = {
    "whole answer": (whole_answer, 60),
    "stream": (stream, 20),
    "leaves": (leave, 5),
    "slow reader": (read_slowly, 2),
    "garbage": (send_garbage, 8),
    "looks around": (look_around, 4),
    "new account": (open_account, 0.2),
}
"""Kinds of visits, each with its weight."""


async def run_load(base_url: str, keys: Sequence[str], rate: float, seed: int, tally: Tally) -> None:
    """Send `rate` visits a second at Poisson times until cancelled; slow answers delay no other visit."""
    chance = random.Random(seed)
    connector = aiohttp.TCPConnector(limit=256)
    async with (
        aiohttp.ClientSession(f"{base_url}/", connector=connector) as http,
        asyncio.TaskGroup() as visits,
    ):
        visitors = [Visitor(http, key, chance, tally) for key in keys]
        while True:
            visits.create_task(chance.choice(visitors).visit())
            await asyncio.sleep(chance.expovariate(rate))
