"""How a route honours `Idempotency-Key`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request

from marketplace.domain.errors import MarketError
from marketplace.services.repeats import Repeats

HEADER: Final = "idempotency-key"
Made = Callable[[str], None]
"""Call it with what the work made."""


@asynccontextmanager
async def once(repeats: Repeats, request: Request, account_id: str) -> AsyncIterator[Made]:
    """Let the work in the block be done once for each key; without the header, every time.

    A block that raises one of our errors has done nothing. After anything else nobody knows, so the key is
    kept until it lapses. Raises AlreadyDone, StillRunning, KeyReused or BadRequest instead of a repeat.
    """
    made: list[str] = []
    key = request.headers.get(HEADER)
    if key is None:
        yield made.append
        return
    route = f"{request.method} {request.url.path}"
    claim = await repeats.claim(account_id, route, key, await request.body())
    try:
        yield made.append
    except MarketError:
        await repeats.forget(claim)
        raise
    await repeats.remember(claim, made[0])
