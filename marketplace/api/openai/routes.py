"""The routes of the OpenAI dialect."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from marketplace.api.openai.completions import Counter, chat_completions, completions
from marketplace.api.openai.models import model_object
from marketplace.domain.ports.link import ProviderLink


class Endpoint:
    """An ASGI application for one POST route, without a framework in between."""

    def __init__(self, counter: Counter, handle: Any) -> None:
        self._counter = counter
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._handle(request, self._counter)
        await response(scope, receive, send)


def openai_routes(counter: Counter, link: ProviderLink) -> list[BaseRoute]:
    """Return the routes below `/v1` that the official clients call."""

    async def list_models(request: Request) -> Response:
        await counter.authenticate(request)
        nodes = link.nodes()
        shown = [model_object(model, nodes) for model in counter.catalog.models()]
        return _json({"object": "list", "data": shown})

    async def get_model(request: Request) -> Response:
        await counter.authenticate(request)
        name = request.path_params["name"]
        return _json(model_object(counter.catalog.resolve(name), link.nodes(), called=name))

    return [
        Route("/v1/chat/completions", Endpoint(counter, chat_completions), methods=["POST"]),
        Route("/v1/completions", Endpoint(counter, completions), methods=["POST"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", get_model, methods=["GET"]),
    ]


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
