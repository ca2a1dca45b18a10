"""How JSON-RPC travels: web3's provider, with one session that keeps its connections."""

from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from web3 import AsyncHTTPProvider
from web3._utils.http_session_manager import HTTPSessionManager

_KEPT_SECONDS: Final = 10.0
"""How long an idle connection is kept; nodes and their proxies close theirs after a minute or more."""


class KeptSession(HTTPSessionManager):
    """Gives the same session each time.

    web3's own opens a connection for each request, and asks a thread for a lock first: for a coordinator that
    reads a few things each second that was most of what it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self._session: ClientSession | None = None

    async def async_cache_and_return_session(self, *_arguments: Any, **_options: Any) -> ClientSession:
        """Return the session."""
        if self._session is None or self._session.closed:
            connector = TCPConnector(keepalive_timeout=_KEPT_SECONDS)
            self._session = ClientSession(raise_for_status=True, connector=connector)
        return self._session

    async def close(self) -> None:
        """Close its connections; the next request would open them again."""
        if self._session is not None:
            await self._session.close()


class KeptProvider(AsyncHTTPProvider):
    """Asks the node at one URL, from one event loop."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        headers = {"content-type": "application/json"}
        super().__init__(
            url, request_kwargs={"timeout": ClientTimeout(total=timeout_seconds), "headers": headers}
        )
        self._request_session_manager = self._kept = KeptSession()

    async def disconnect(self) -> None:
        """Close what is open."""
        await self._kept.close()
