"""Pure ASGI layers around the application; none of them sees a body's content, and none buffers a stream.

RequestId ▸ AccessLog ▸ Crowding ▸ BodyLimit ▸ DirectRoutes ▸ routes
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.api.errors import error_response, unforeseen_response
from marketplace.domain.errors import Broken, MarketError, TooLarge

log = structlog.get_logger()

MAX_BODY_BYTES: Final = 1024 * 1024
MOST_DIGITS: Final = 20
"""Of an announced length: Python reads numbers of thousands of digits slowly, or not at all."""
CLIENT_CLOSED: Final = 499
Observe = Callable[[str, str, int, float], None]
"""Called with method, route, status and seconds for every request."""


class RequestId:
    """Gives each request an id, in the answer's `x-request-id` and in the logs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._process = secrets.token_hex(6)
        self._numbers = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with an id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{self._process}{next(self._numbers):012x}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, tell)


class AccessLog:
    """Logs each request's route, status and time, and turns what escapes into an answer."""

    def __init__(self, app: ASGIApp, observe: Observe, patterns: Mapping[Any, str]) -> None:
        """`patterns` names each endpoint's route: paths carry ids, and metrics must not grow with them."""
        self._app = app
        self._observe = observe
        self._patterns = patterns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answered(scope, receive, watch, lambda: status != 0)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    async def _answered(
        self, scope: Scope, receive: Receive, send: Send, has_begun: Callable[[], bool]
    ) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            # Nobody reads it; it is for the log.
            await send({"type": "http.response.start", "status": CLIENT_CLOSED, "headers": []})
        except Exception as error:  # the last place where a bug can still become an answer
            request_id = scope["state"]["request_id"]
            if not isinstance(error, MarketError) or isinstance(error, Broken):
                log.exception("request_broke", request_id=request_id, path=scope["path"])
            if has_begun():
                raise
            response = error_response(error) if isinstance(error, MarketError) else unforeseen_response()
            await response(scope, receive, send)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._patterns.get(scope.get("endpoint"), "unknown")
        self._observe(scope["method"], route, status, seconds)
        log.info(
            "request",
            request_id=scope["state"]["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


class BodyLimit:
    """Refuses bodies over a limit, by their announced length or as soon as too much has come."""

    def __init__(self, app: ASGIApp, most: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on while the body is small enough. Raises TooLarge."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit():
            size = int(announced[:MOST_DIGITS])
            if size > self._most:
                raise self._too_large(size)
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise self._too_large(seen)
            return message

        return counted

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"The body has at least {size} bytes; the limit is {self._most}.")


class DirectRoutes:
    """Hands the busiest paths to their endpoints, past the framework's routing and its layers.

    Their routes are still there, for other methods and for who reads the table of routes.
    """

    def __init__(self, app: ASGIApp, posts: Mapping[str, ASGIApp]) -> None:
        """`posts` are endpoints by path, for POST."""
        self._app = app
        self._posts = posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, directly or through the routes."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._posts.get(scope["path"]) if is_post else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = endpoint
        await endpoint(scope, receive, send)
