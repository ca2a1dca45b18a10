"""What the routes work with, and how they learn who is asking."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request

from marketplace.domain.errors import Forbidden, NotAuthenticated
from marketplace.services.accounts import Accounts
from marketplace.services.balances import Balances
from marketplace.services.consents import Consents
from marketplace.services.keys import Caller, KeyRing
from marketplace.services.limits import Limits
from marketplace.services.repeats import Repeats


@dataclass(frozen=True, slots=True)
class Gate:
    """Says who is asking, and how often they may."""

    keys: KeyRing
    limits: Limits
    trusted_proxies: frozenset[str]

    async def caller(self, request: Request) -> Caller:
        """Return whose key or session the request carries.

        Raises NotAuthenticated without a good one, Forbidden for a suspended account's, TooFast over the rate
        of the key, or of the address for those who try keys, which is counted before the books are asked.
        """
        secret, counted = bearer(request), list[str]()

        def count() -> None:
            address = self.address(request)
            self.limits.check_look_up(address)
            counted.append(address)

        try:
            caller = await self.keys.authenticate(secret, count)
        except (NotAuthenticated, Forbidden):
            self.stranger(request)
            raise
        for address in counted:
            self.limits.look_up_found(address)
        self.limits.check_key(caller.key_id or caller.account_id)
        return caller

    async def manager(self, request: Request) -> Caller:
        """Return the caller, who may manage the account. Raises Forbidden for a key that only runs jobs."""
        caller = await self.caller(request)
        caller.require_full()
        return caller

    def stranger(self, request: Request) -> str:
        """Return the address of a request that needs no key. Raises TooFast over its rate."""
        address = self.address(request)
        self.limits.check_address(address)
        return address

    def address(self, request: HTTPConnection) -> str:
        """Return where the request came from, as the nearest proxy that is not trusted, or the socket, says.

        `X-Forwarded-For` is read from its end: each proxy adds whom it saw, and what stands before the first
        stranger may be made up.
        """
        peer = request.client.host if request.client else ""
        told = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while peer in self.trusted_proxies and told:
            peer = _host(told.pop()) or peer
        return peer


@dataclass(frozen=True, slots=True)
class AccountServices:
    """The services behind the account's routes."""

    gate: Gate
    accounts: Accounts
    keys: KeyRing
    balances: Balances
    consents: Consents
    repeats: Repeats


def bearer(request: Request) -> str:
    """Return the secret of `Authorization: Bearer …`. Raises NotAuthenticated if there is none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise NotAuthenticated(
            "No API key was sent. Send `Authorization: Bearer tsk_…`; make one with: "
            "tallystick account sign-up",
            code="missing_api_key",
        )
    return secret.strip()


def _host(told: str) -> str:
    """Return the address in `1.2.3.4`, `1.2.3.4:567`, `2001:db8::1` or `[2001:db8::1]:567`."""
    text = told.strip()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
