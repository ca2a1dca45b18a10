"""docs/api.md lists the routes that there are."""

import re
from pathlib import Path

from fastapi import FastAPI
from starlette.routing import Route, WebSocketRoute

from tests.support.servers import Server

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def served(app: FastAPI) -> set[str]:
    """The routes of the application, as the page writes them."""
    found = set()
    for route in app.router.routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", getattr(route, "path", ""))
        if isinstance(route, WebSocketRoute):
            found.add(f"WS {path}")
        elif isinstance(route, Route):
            found |= {f"{method} {path}" for method in (route.methods or set()) - {"HEAD"}}
    return found


def test_the_page_lists_the_routes_that_there_are(server: Server) -> None:
    listed = set(
        re.findall(r"^\| `((?:GET|POST|PATCH|DELETE|PUT|WS) [^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    )
    assert listed == served(server.app)
