"""Everything that can go wrong, by what the caller can do about it.

    MarketError
    ├── Refused        the caller can fix it (fewer tokens, another key, a deposit)
    │   ├── BadRequest         TurnedDown
    │   ├── NotAuthenticated, Forbidden, NotFound, TooLarge, TooFast, KeyReused
    │   ├── Conflict           StillRunning, AlreadyDone
    │   └── PaymentRequired    InsufficientBalance, KeyCapReached, ConsentNeeded,
    │                          UnsignedBudgetSpent
    ├── Unavailable    try again later
    │   └── NoNode, NodesFailed, ChainUnavailable
    └── Broken         our bug; crash loudly

Statuses live in `api/errors.py`, the one table; messages carry the numbers and say what to do.
"""

from tallystick.protocol.money import NanoUsd, format_usd


class MarketError(Exception):
    """The root; `code` is stable and machine-readable, `param` names the field at fault."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class Refused(MarketError):
    """The caller can fix it."""

    code = "refused"


class BadRequest(Refused):
    """A field is missing or wrong."""

    code = "invalid_request"


class TurnedDown(BadRequest):
    """The nodes that were asked find the fault in the request; nothing was charged."""

    code = "refused_by_nodes"


class NotAuthenticated(Refused):
    """No key, a wrong key, or one that was revoked."""

    code = "invalid_api_key"


class Forbidden(Refused):
    """The key is good, but not for this."""

    code = "forbidden"


class NotFound(Refused):
    """There is no such thing, or it is not the caller's."""

    code = "not_found"


class Conflict(Refused):
    """It clashes with what is there already."""

    code = "conflict"


class StillRunning(Conflict):
    """The first request with this Idempotency-Key has not ended; `retry_after` is in seconds."""

    code = "idempotency_key_in_use"
    retry_after = 2

    def __init__(self) -> None:
        super().__init__("A request with this Idempotency-Key is still running. Wait for it, or try again.")


class AlreadyDone(Conflict):
    """The request with this Idempotency-Key has done its work; `made` says what that was."""

    code = "idempotency_key_used"

    def __init__(self, made: str) -> None:
        super().__init__(
            f"A request with this Idempotency-Key has ended. {made} Its answer is not kept; nothing was done "
            "or charged again. Use a new key to ask again."
        )


class KeyReused(Refused):
    """This Idempotency-Key came with another body before."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used with another body. Use a new key for a new request.",
            param="Idempotency-Key",
        )


class TooLarge(Refused):
    """The request's body exceeds the limit."""

    code = "request_too_large"


class TooFast(Refused):
    """A rate limit; `retry_after` is in seconds."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PaymentRequired(Refused):
    """There is not enough money or not enough right to it; a retry alone does not help."""

    code = "insufficient_quota"


class InsufficientBalance(PaymentRequired):
    """The account's available balance does not cover the most that the job can cost."""

    code = "insufficient_balance"

    def __init__(self, *, needed: NanoUsd, available: NanoUsd) -> None:
        super().__init__(
            f"This request can cost ${format_usd(needed)}; ${format_usd(available)} is available. "
            "Deposit, or lower max_tokens."
        )
        self.needed = needed
        self.available = available


class KeyCapReached(PaymentRequired):
    """The API key's spending cap does not cover the most that the job can cost."""

    code = "key_cap_reached"

    def __init__(self, *, needed: NanoUsd, left: NanoUsd) -> None:
        super().__init__(
            f"This request can cost ${format_usd(needed)}; ${format_usd(left)} is left under this key's cap. "
            "Raise the cap, or lower max_tokens."
        )
        self.needed = needed
        self.left = left


class ConsentNeeded(PaymentRequired):
    """The wallet account has spent more than it authorized or signed for, up to the unsigned allowance."""

    code = "consent_needed"

    def __init__(self, *, needed: NanoUsd, authorized: NanoUsd, spent: NanoUsd) -> None:
        super().__init__(
            f"This account has spent ${format_usd(spent)} and authorized ${format_usd(authorized)}; this "
            f"request can cost ${format_usd(needed)} more. Sign a consent (the Tallystick SDK does it as it "
            "goes) or authorize more."
        )
        self.needed = needed
        self.authorized = authorized
        self.spent = spent


class UnsignedBudgetSpent(PaymentRequired):
    """As many wallets as may have begun today to run ahead of what they authorized or signed for."""

    code = "unsigned_budget_spent"

    def __init__(self) -> None:
        super().__init__(
            "This account has authorized nothing yet, and what the market lends to such accounts in a day is "
            "lent. Authorize a part of your deposit: tallystick account authorize."
        )


class Unavailable(MarketError):
    """Try again later; `retry_after` is in seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoNode(Unavailable):
    """No live, staked node serves the model within the caller's wishes; nothing was charged."""

    code = "no_node"


class NodesFailed(Unavailable):
    """Every node that was tried failed before the answer was complete; nothing was charged."""

    code = "nodes_failed"


class ChainUnavailable(Unavailable):
    """The chain's RPC does not answer."""

    code = "chain_unavailable"


class Broken(MarketError):
    """A bug of ours or a broken invariant; stop rather than go on wrongly."""

    code = "internal_error"
