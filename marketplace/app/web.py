"""The coordinator's HTTP surface: its routes and the layers around them."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from marketplace.api.account.keys import key_routes
from marketplace.api.account.money import money_routes
from marketplace.api.account.sign_up import sign_up_routes
from marketplace.api.account.verify_page import verify_page_routes
from marketplace.api.crowding import Crowding
from marketplace.api.deps import AccountServices
from marketplace.api.errors import routing_response
from marketplace.api.middleware import AccessLog, BodyLimit, DirectRoutes, RequestId
from marketplace.api.openai.completions import Counter
from marketplace.api.openai.routes import Endpoint, openai_routes
from marketplace.api.public.epochs import epoch_routes
from marketplace.api.public.health import Check, health_routes
from marketplace.api.public.market import MarketTerms, market_routes
from marketplace.api.public.receipts import receipt_routes
from marketplace.app.parts import Parts
from marketplace.services.consents import Consents
from marketplace.services.receipts import ReceiptBook
from marketplace.services.settlement.proofs import EpochProofs


def application(parts: Parts) -> FastAPI:
    """Return the application: every route, behind the layers that each request passes."""
    routes = _routes(parts)
    patterns = {route.endpoint: route.path for route in routes if isinstance(route, Route)}
    posts = {path: endpoint for endpoint, path in patterns.items() if isinstance(endpoint, Endpoint)}
    app = FastAPI(
        title="Tallystick",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={HTTPException: routing_response},
        middleware=[
            Middleware(RequestId),
            Middleware(AccessLog, observe=parts.metrics.observe, patterns=patterns),
            Middleware(
                Crowding,
                crowd=parts.crowd,
                proxies=parts.gate.trusted_proxies,
                address=parts.gate.address,
            ),
            Middleware(BodyLimit, most=parts.settings.max_body_bytes),
            Middleware(DirectRoutes, posts=posts),
        ],
    )
    app.router.routes.extend(routes)
    return app


def _routes(parts: Parts) -> list[BaseRoute]:
    place = parts.side.deployment
    services = AccountServices(
        parts.gate,
        parts.accounts,
        parts.keys,
        parts.balances,
        Consents(parts.database, place.ledger_domain),
        parts.repeats,
    )
    counter = Counter(
        parts.market, parts.catalog, parts.gate.caller, parts.repeats, parts.settings.default_max_tokens
    )
    terms = MarketTerms(
        place,
        parts.settings.rpc_url or place.rpc_url,
        parts.settings.fee_bps,
        parts.side.is_local,
        parts.settings.accept_jobs,
    )
    proofs = EpochProofs(parts.database, parts.files)

    async def check_books() -> str:
        return await parts.database.read(lambda session: session.get_bind().dialect.name)

    async def check_chain() -> str:
        return await parts.height.check(parts.clock.now_ms() // 1000)

    checks: dict[str, Check] = {"books": check_books, "chain": check_chain}
    return [
        *openai_routes(counter, parts.hub),
        *money_routes(services),
        *key_routes(services),
        *verify_page_routes(),
        *sign_up_routes(services, address=parts.settings.address, chain_id=place.chain_id, clock=parts.clock),
        *receipt_routes(parts.gate, ReceiptBook(parts.database, proofs, parts.files)),
        *epoch_routes(parts.gate, parts.database, parts.files.path),
        *market_routes(
            parts.gate, terms, parts.hub, parts.catalog, parts.balances, lambda: parts.clock.now_ms() // 1000
        ),
        *health_routes(checks, parts.metrics.render),
        WebSocketRoute("/v1/nodes/connect", parts.hub.serve),
    ]
