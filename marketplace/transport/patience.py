"""How long the HTTP server waits for slow clients: without limits, each of them keeps a connection for ever.

    connected, or the last answer is out ──▶ head ──▶ body ──▶ answer ──▶ …
      └── the request must be here in `request_seconds` ──┘      └── the reader takes some in `write_seconds`

A closed connection whose last bytes nobody takes is given up after `write_seconds` too.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from marketplace.domain.places import Crowd

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a request's line and headers; the parser itself has no limit."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds. `look_every` is how exact they are."""

    request_seconds: float = 60.0
    write_seconds: float = 30.0
    max_connections: int = 4000
    look_every: float = 5.0
    crowd: Crowd | None = None
    """Counts the connections of each address; None: they are not counted."""
    proxies: frozenset[str] = frozenset()
    """Addresses that others' connections come from: theirs are not counted here."""


def patient_http(patience: Patience) -> type[asyncio.Protocol]:
    """Return the protocol for uvicorn's `http`."""
    return type("PatientHttp", (_PatientHttp,), {"patience": patience})


class _PatientHttp(HttpToolsProtocol):
    patience = Patience()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due_since: float | None = None
        """Since when a request is due or on its way; None while one is being answered."""
        self._stuck_since: float | None = None
        """Since when the client takes nothing of what waits for it."""
        self._closing_since: float | None = None
        self._head_bytes: int | None = 0
        """How much of a head has come; None while no head is being read."""
        self._next_look: asyncio.TimerHandle | None = None
        self._counted_as: str | None = None
        """The address that this connection counts for."""

    # What the event loop and the parser call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._due_since = self.loop.time()
        if len(self.connections) > self.patience.max_connections:
            self._refuse(503, "Too many connections are open; try again soon.", "too_many_connections")
            return
        if not self._enter():
            most = 0 if self.patience.crowd is None else self.patience.crowd.most
            self._refuse(
                429, f"At most {most} connections from one address are served.", "too_many_connections"
            )
            return
        self._next_look = self.loop.call_later(self.patience.look_every, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_no_more()
        self._leave()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._look_no_more()
        # From here on it is another protocol's, and the application counts it.
        self._leave()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(
                    431, f"The request's headers exceed {MAX_HEAD_BYTES} bytes.", "headers_too_large"
                )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._due_since = self.loop.time()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._due_since = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck_since = None

    # What we do about it.

    def _look(self) -> None:
        """End the connection if a limit is over."""
        now, patience = self.loop.time(), self.patience
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
        elif self.flow.read_paused:
            # It is we who do not read, so the client cannot send.
            self._due_since = None if self._due_since is None else now
        elif self._is_idle() and self._due_since is None:
            # Blank lines between requests stop uvicorn's own clock for idle connections.
            self._due_since = now
        unread = self._stuck_since or self._closing_since
        if unread is not None and now - unread > patience.write_seconds:
            log.info("reader_given_up", client=self._client_host())
            self.transport.abort()
        elif self._due_since is not None and now - self._due_since > patience.request_seconds:
            self._due_since = None
            message = f"The request did not arrive within {patience.request_seconds:g} seconds."
            self._refuse(408, message, "request_timeout")
        self._next_look = self.loop.call_later(patience.look_every, self._look)

    def _is_idle(self) -> bool:
        return self._unanswered() is None and self.timeout_keep_alive_task is None

    def _unanswered(self) -> RequestResponseCycle | None:
        """Return the request whose answer is not complete, if there is one."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Say why, where nothing was said yet, and close."""
        cycle = self._unanswered()
        if cycle is None or not cycle.response_started:
            self.transport.write(_answer(status, message, code))
        self.transport.close()
        if cycle is not None:
            # Whoever waits for the rest of the body learns that it does not come.
            cycle.disconnected = True
            cycle.message_event.set()

    def _enter(self) -> bool:
        """Count this connection; return False if its address has too many."""
        crowd, host = self.patience.crowd, self._client_host()
        if crowd is None or host in self.patience.proxies:
            return True
        if not crowd.enter(host):
            return False
        self._counted_as = host
        return True

    def _leave(self) -> None:
        if self._counted_as is not None and self.patience.crowd is not None:
            self.patience.crowd.leave(self._counted_as)
            self._counted_as = None

    def _look_no_more(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _client_host(self) -> str:
        return self.client[0] if self.client else ""


_REASONS: Final = {
    408: "Request Timeout",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_KINDS: Final = {429: "rate_limit_error", 503: "service_unavailable"}


def _answer(status: int, message: str, code: str) -> bytes:
    kind = _KINDS.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = msgspec.json.encode({"error": error})
    head = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *(["retry-after: 5"] if status in _KINDS else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
