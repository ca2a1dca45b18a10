"""What the routes work with, and how they learn who is asking."""

from dataclasses import dataclass

from starlette.requests import Request

from marketplace.domain.errors import NotAuthenticated
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

        Raises NotAuthenticated without a good one, TooFast over the rate of the key, or of the address for
        those who try keys.
        """
        secret = bearer(request)
        try:
            caller = await self.keys.authenticate(secret)
        except NotAuthenticated:
            self.limits.check_address(self.address(request))
            raise
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

    def address(self, request: Request) -> str:
        """Return where the request came from, as a trusted proxy says or as the socket does."""
        peer = request.client.host if request.client else ""
        if peer in self.trusted_proxies:
            forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
            return forwarded or peer
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
