"""A layer that keeps one address from taking all connections.

The HTTP server counts sockets as they open. What it cannot count is counted here, while it lasts: requests
that come through a trusted proxy, whose own address says nothing, and websockets.
"""

from collections.abc import Callable
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from marketplace.domain.errors import TooFast
from marketplace.domain.places import Crowd

TRY_AGAIN_SECONDS: Final = 5
_TRY_AGAIN_LATER: Final = 1013
"""A websocket's code for a server that is overloaded."""


class Crowding:
    """Refuses what would be more than an address may have at once."""

    def __init__(
        self, app: ASGIApp, crowd: Crowd, proxies: frozenset[str], address: Callable[[HTTPConnection], str]
    ) -> None:
        self._app = app
        self._crowd = crowd
        self._proxies = proxies
        self._address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, counted. Raises TooFast; a websocket is closed instead."""
        if not self._is_to_be_counted(scope):
            await self._app(scope, receive, send)
            return
        address = self._address(HTTPConnection(scope))
        if not self._crowd.enter(address):
            await self._refuse(scope, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._crowd.leave(address)

    def _is_to_be_counted(self, scope: Scope) -> bool:
        if scope["type"] == "http":
            return bool(self._proxies) and scope["client"] is not None and scope["client"][0] in self._proxies
        return bool(scope["type"] == "websocket")

    async def _refuse(self, scope: Scope, send: Send) -> None:
        said = f"At most {self._crowd.most} connections from one address are served."
        if scope["type"] == "http":
            raise TooFast(said, retry_after=TRY_AGAIN_SECONDS)
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": said})
