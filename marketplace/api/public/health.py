"""`/healthz`, `/readyz`, `/metrics`: for whoever keeps the coordinator running."""

from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer
from marketplace.domain.errors import MarketError

Check = Callable[[], Awaitable[str]]
"""Return a word about a part that works. Raises MarketError for one that does not."""


def health_routes(checks: Mapping[str, Check], metrics: Callable[[], bytes]) -> list[BaseRoute]:
    """Return the routes."""

    async def alive(_: Request) -> Response:
        return answer({"status": "ok"})

    async def ready(_: Request) -> Response:
        found: dict[str, str] = {}
        well = True
        for name, check in checks.items():
            try:
                found[name] = await check()
            except MarketError as error:
                found[name] = f"not ready: {error.message}"
                well = False
        return answer({"status": "ready" if well else "not ready", "checks": found}, 200 if well else 503)

    async def numbers(_: Request) -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", alive, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/metrics", numbers, methods=["GET"]),
    ]
