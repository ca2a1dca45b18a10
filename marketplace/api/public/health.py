"""`/healthz`, `/readyz`, `/metrics`: for whoever keeps the coordinator running."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer
from marketplace.domain.errors import MarketError

Check = Callable[[], Awaitable[str]]
"""Return a word about a part that works. Raises MarketError for one that does not."""


FRESH_SECONDS: Final = 1.0
"""How old an answer may be. Anybody may ask, so the parts are not asked each time."""


class _Readiness:
    """What all parts said lately; whoever asks meanwhile waits for the same answers."""

    def __init__(self, checks: Mapping[str, Check], now: Callable[[], float]) -> None:
        self._checks = checks
        self._now = now
        self._asked_at = 0.0
        self._asking: asyncio.Task[dict[str, str]] | None = None
        self.is_well = False

    async def found(self) -> dict[str, str]:
        """Return a word about each part."""
        is_old = self._now() - self._asked_at >= FRESH_SECONDS
        if self._asking is None or (self._asking.done() and is_old):
            self._asked_at = self._now()
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> dict[str, str]:
        found, is_well = dict[str, str](), True
        for name, check in self._checks.items():
            try:
                found[name] = await check()
            except MarketError as error:
                found[name] = f"not ready: {error.message}"
                is_well = False
        self.is_well = is_well
        return found


def health_routes(
    checks: Mapping[str, Check], metrics: Callable[[], bytes], *, now: Callable[[], float] = monotonic
) -> list[BaseRoute]:
    """Return the routes; `now` is a monotonic clock in seconds."""
    readiness = _Readiness(checks, now)

    async def alive(_: Request) -> Response:
        return answer({"status": "ok"})

    async def ready(_: Request) -> Response:
        found = await readiness.found()
        well = readiness.is_well
        return answer({"status": "ready" if well else "not ready", "checks": found}, 200 if well else 503)

    async def numbers(_: Request) -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", alive, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/metrics", numbers, methods=["GET"]),
    ]
