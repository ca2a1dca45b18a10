"""The one table from errors to statuses, and the OpenAI error object that `/v1` answers with."""

from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from marketplace.domain.errors import (
    AlreadyDone,
    BadRequest,
    Broken,
    Conflict,
    Forbidden,
    KeyReused,
    MarketError,
    NotAuthenticated,
    NotFound,
    PaymentRequired,
    StillRunning,
    TooFast,
    TooLarge,
    Unavailable,
)

# Looked up along the class's ancestors, so a kind's children share its line unless they have their own.
STATUS: Final[dict[type[MarketError], tuple[int, str]]] = {
    BadRequest: (400, "invalid_request_error"),
    NotAuthenticated: (401, "authentication_error"),
    PaymentRequired: (402, "insufficient_quota"),
    Forbidden: (403, "permission_error"),
    NotFound: (404, "invalid_request_error"),
    Conflict: (409, "invalid_request_error"),
    KeyReused: (422, "invalid_request_error"),
    TooLarge: (413, "invalid_request_error"),
    TooFast: (429, "rate_limit_error"),
    Unavailable: (503, "service_unavailable"),
    Broken: (500, "server_error"),
}
UNFORESEEN: Final = (500, "server_error")
MOST_MESSAGE: Final = 1000
MOST_PARAM: Final = 100
"""Characters of an error: messages quote what was sent, and that may be as long as a body."""
ROUTING: Final = {404: "unknown_path", 405: "method_not_allowed"}


def status_of(error: MarketError) -> int:
    """Return the HTTP status of an error."""
    return _line(error)[0]


def error_object(error: MarketError) -> dict[str, Any]:
    """Return the error as OpenAI's clients read it: `message`, `type`, `param`, `code`."""
    message = (
        error.message
        if not isinstance(error, Broken)
        else "The server had an internal error; it was recorded."
    )
    return {
        "message": _cut(message, MOST_MESSAGE),
        "type": _line(error)[1],
        "param": None if error.param is None else _cut(error.param, MOST_PARAM),
        "code": error.code,
    }


def error_headers(error: MarketError) -> dict[str, str]:
    """Return the headers that tell clients whether and when to try again."""
    match error:
        case TooFast(retry_after=seconds) | Unavailable(retry_after=seconds):
            return {"retry-after": str(seconds)}
        case StillRunning():
            return {"retry-after": str(error.retry_after)}
        case PaymentRequired() | AlreadyDone():
            return {"x-should-retry": "false"}
        case _:
            return {}


def error_response(error: MarketError) -> Response:
    """Return the answer for an error of ours."""
    body = msgspec.json.encode({"error": error_object(error)})
    return Response(body, status_of(error), error_headers(error), "application/json")


def unforeseen_response() -> Response:
    """Return the answer for an exception that is none of ours; it says nothing about the inside."""
    return error_response(Broken("unforeseen"))


async def routing_response(request: Request, error: Exception) -> Response:
    """Return the answer for a path or method that there is not, as the framework found."""
    if not isinstance(error, HTTPException):
        raise error
    message = _cut(f"{request.method} {request.url.path}: {error.detail}.", MOST_MESSAGE)
    code = ROUTING.get(error.status_code, "refused")
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Response(
        msgspec.json.encode({"error": body}), error.status_code, error.headers, "application/json"
    )


def _line(error: MarketError) -> tuple[int, str]:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), UNFORESEEN)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
