"""API keys and sessions: who is asking, and what for.

A key is 256 random bits, so its SHA-256 is enough to keep. What a key may do is remembered in memory; every
half second the database is asked which keys have changed, so that a key that was revoked anywhere stops
within a second.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.errors import BadRequest, Broken, Conflict, Forbidden, NotAuthenticated, NotFound
from marketplace.domain.ports.clock import Clock
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts, keys, sign_ins
from marketplace.storage.tables import ApiKey
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.money import MAX_NANO, NanoUsd

KEY_PREFIX: Final = "tsk_"
SESSION_PREFIX: Final = "tss_"
SHOWN_CHARACTERS: Final = 12
SCOPES: Final = ("full", "inference")
MOST_KEYS: Final = 100
MOST_REMEMBERED: Final = 50_000
SYNC_MS: Final = 500
SKEW_MS: Final = 10_000
"""How far the clocks of two coordinators on one database may be apart."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking. `key_id` is empty for a session; `payer` is the address that its receipts name."""

    account_id: str
    key_id: str
    payer: Address
    kind: AccountKind
    scope: str
    max_input_price: NanoUsd | None = None
    max_output_price: NanoUsd | None = None

    def require_full(self) -> None:
        """Raise Forbidden for a key that only runs jobs."""
        if self.scope != "full":
            raise Forbidden("This key only runs jobs; use one of scope `full`, or sign in.", code="key_scope")


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a key may do: `cap` in nano-dollars ever (None: no cap), dearest prices per token."""

    name: str = ""
    scope: str = "full"
    cap: NanoUsd | None = None
    max_input_price: NanoUsd | None = None
    max_output_price: NanoUsd | None = None


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as its owner sees it; times in milliseconds."""

    id: str
    prefix: str
    terms: KeyTerms
    spent: NanoUsd
    held: NanoUsd
    created_at: int
    last_used_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key; `secret` is shown this once."""

    secret: str
    view: KeyView


class KeyRing:
    """Makes, checks and revokes keys."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._remembered: OrderedDict[bytes, Caller] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller]] = {}
        self._synced_at = clock.now_ms()
        self._syncing: asyncio.Task[None] | None = None
        self._when_revoked: Callable[[str], Awaitable[None]] | None = None

    def when_revoked(self, call: Callable[[str], Awaitable[None]]) -> None:
        """Have `call` awaited with the id of each key that is revoked here, after it is refused."""
        self._when_revoked = call

    async def authenticate(self, raw: str, toll: Callable[[], object] = lambda: None) -> Caller:
        """Return who holds a key or a session token.

        `toll` is called before the database is asked, once for all that bring the same secret meanwhile; what
        it raises passes through. Raises NotAuthenticated, or Forbidden if suspended.
        """
        if not raw.startswith((KEY_PREFIX, SESSION_PREFIX)):
            raise NotAuthenticated("That is no API key of this market; they begin with tsk_.")
        digest = secret_hash(raw)
        if self._clock.now_ms() - self._synced_at >= SYNC_MS:
            await self._sync()
        known = self._remembered.get(digest)
        if known is not None:
            return known
        asking = self._asking.get(digest)
        if asking is None:
            toll()
            asking = asyncio.create_task(self._look_up(digest, raw.startswith(SESSION_PREFIX)))
            self._asking[digest] = asking
            asking.add_done_callback(lambda task: self._looked_up(digest, task))
        return await asyncio.shield(asking)

    async def _look_up(self, digest: bytes, is_session: bool) -> Caller:
        now = self._clock.now_ms()
        if is_session:
            return await self._database.read(lambda session: _session_caller(session, digest, now))
        caller = await self._database.read(lambda session: _key_caller(session, digest))
        if self._asking.get(digest) is asyncio.current_task():  # else it was changed while it was read
            self._remembered[digest] = caller
            if len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        return caller

    def _looked_up(self, digest: bytes, task: "asyncio.Task[Caller]") -> None:
        if self._asking.get(digest) is task:
            del self._asking[digest]
        if not task.cancelled():
            task.exception()  # those who asked may have gone; then nobody needs it

    async def create_key(self, account_id: str, terms: KeyTerms) -> CreatedKey:
        """Make a key. Raises BadRequest for terms that make no sense, Conflict beyond 100 usable keys."""
        check_terms(terms)
        now = self._clock.now_ms()
        return await self._database.write(lambda session: new_key(session, account_id, terms, now))

    async def list_keys(self, account_id: str) -> list[KeyView]:
        """Return the account's keys, the oldest first, revoked ones too."""
        return await self._database.read(
            lambda session: [view_of(key) for key in keys.of_account(session, account_id)]
        )

    async def find_key(self, account_id: str, key_id: str) -> KeyView:
        """Return one key of the account. Raises NotFound."""
        return await self._database.read(lambda session: _view(session, account_id, key_id))

    async def change_key(self, account_id: str, key_id: str, terms: KeyTerms) -> KeyView:
        """Give a key other terms (all of them).

        Raises NotFound, also for one that was revoked, or BadRequest.
        """
        check_terms(terms)
        values = {
            "name": terms.name,
            "scope": terms.scope,
            "cap": terms.cap,
            "max_input_price": terms.max_input_price,
            "max_output_price": terms.max_output_price,
        }
        return await self._change(account_id, key_id, **values)

    async def revoke_key(self, account_id: str, key_id: str) -> KeyView:
        """Revoke a key: refused here at once, everywhere within a second; what runs with it ends here.

        Raises NotFound.
        """
        view = await self._change(account_id, key_id, revoked_at=self._clock.now_ms())
        if self._when_revoked is not None:
            await self._when_revoked(key_id)
        return view

    def forget_account(self, account_id: str) -> None:
        """Ask the database again for the keys of an account that was suspended or restored."""
        for digest in [one for one, caller in self._remembered.items() if caller.account_id == account_id]:
            del self._remembered[digest]
        self._asking.clear()

    async def _change(self, account_id: str, key_id: str, **values: object) -> KeyView:
        now = self._clock.now_ms()

        def work(session: Session) -> tuple[bytes, KeyView]:
            if not keys.change(session, key_id, account_id, changed_at=now, **values):
                raise NotFound(f"There is no usable key {key_id!r}.", code="key_not_found")
            key = keys.find(session, key_id)
            if key is None:
                raise Broken(f"key {key_id} vanished")
            return key.hash, view_of(key)

        digest, view = await self._database.write(work)
        self._remembered.pop(digest, None)
        self._asking.pop(digest, None)
        return view

    async def _sync(self) -> None:
        """Forget the keys that changed; callers that come meanwhile wait for the same answer."""
        if self._syncing is None:
            self._syncing = asyncio.ensure_future(self._forget_changed())
            self._syncing.add_done_callback(self._synced)
        await asyncio.shield(self._syncing)

    async def _forget_changed(self) -> None:
        asked_at = self._clock.now_ms()
        since = self._synced_at - SKEW_MS
        for digest in await self._database.read(lambda session: keys.changed_since(session, since)):
            self._remembered.pop(digest, None)
        self._synced_at = asked_at

    def _synced(self, _task: asyncio.Task[None]) -> None:
        self._syncing = None


def secret_hash(raw: str) -> bytes:
    """Return what is kept of a secret that has 256 random bits."""
    return hashlib.sha256(raw.encode()).digest()


def new_secret(prefix: str) -> str:
    """Return `prefix` and 43 characters that nobody can guess."""
    return prefix + secrets.token_urlsafe(32)


def new_key(session: Session, account_id: str, terms: KeyTerms, now: int) -> CreatedKey:
    """Make a key of the account, in a write.

    Raises Conflict beyond 100 usable keys, NotFound without account.
    """
    if accounts.find(session, account_id) is None:
        raise NotFound(f"There is no account {account_id!r}.")
    if keys.count_usable(session, account_id) >= MOST_KEYS:
        raise Conflict(f"This account has {MOST_KEYS} keys already; revoke one.", code="too_many_keys")
    secret = new_secret(KEY_PREFIX)
    key = ApiKey(
        id="key_" + secrets.token_hex(10),
        account_id=account_id,
        hash=secret_hash(secret),
        prefix=secret[:SHOWN_CHARACTERS],
        name=terms.name,
        scope=terms.scope,
        cap=terms.cap,
        max_input_price=terms.max_input_price,
        max_output_price=terms.max_output_price,
        created_at=now,
        changed_at=now,
    )
    session.add(key)
    session.flush()
    return CreatedKey(secret, view_of(key))


def check_terms(terms: KeyTerms) -> None:
    """Raise BadRequest unless `terms` can be a key's."""
    if terms.scope not in SCOPES:
        raise BadRequest(f"a key's scope is `full` or `inference`, not {terms.scope!r}", param="scope")
    if len(terms.name) > 100:
        raise BadRequest("a key's name has at most 100 characters", param="name")
    amounts = {
        "cap": terms.cap,
        "max_input_price": terms.max_input_price,
        "max_output_price": terms.max_output_price,
    }
    for param, amount in amounts.items():
        if amount is not None and not 0 <= amount <= MAX_NANO:
            raise BadRequest(f"{amount} nano-dollars cannot be a key's {param}", param=param)


def view_of(key: ApiKey) -> KeyView:
    """Return a key as its owner sees it."""
    return KeyView(
        id=key.id,
        prefix=key.prefix,
        terms=KeyTerms(
            name=key.name,
            scope=key.scope,
            cap=_amount(key.cap),
            max_input_price=_amount(key.max_input_price),
            max_output_price=_amount(key.max_output_price),
        ),
        spent=NanoUsd(key.spent),
        held=NanoUsd(key.held),
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        revoked_at=key.revoked_at,
    )


def _amount(value: int | None) -> NanoUsd | None:
    return None if value is None else NanoUsd(value)


def _view(session: Session, account_id: str, key_id: str) -> KeyView:
    key = keys.find(session, key_id)
    if key is None or key.account_id != account_id:
        raise NotFound(f"There is no key {key_id!r}.", code="key_not_found")
    return view_of(key)


def _key_caller(session: Session, digest: bytes) -> Caller:
    key = keys.by_hash(session, digest)
    if key is None:
        raise NotAuthenticated("This API key is not known here.")
    if key.revoked_at is not None:
        raise NotAuthenticated("This API key was revoked.", code="revoked_api_key")
    terms = view_of(key).terms
    return _caller(session, key.account_id, key.id, terms)


def _session_caller(session: Session, digest: bytes, now: int) -> Caller:
    account_id = sign_ins.session_account(session, digest, now)
    if account_id is None:
        raise NotAuthenticated("This session has ended; sign in again.", code="session_ended")
    return _caller(session, account_id, "", KeyTerms())


def _caller(session: Session, account_id: str, key_id: str, terms: KeyTerms) -> Caller:
    account = accounts.find(session, account_id)
    if account is None:
        raise Broken(f"key {key_id} has no account")
    if account.status != "active":
        raise Forbidden(f"This account is {account.status}.", code="account_suspended")
    kind = AccountKind(account.kind)
    paying = accounts.find(session, TREASURY_ID) if kind is AccountKind.EMAIL else account
    if paying is None or paying.address is None:
        raise Broken(f"nobody pays for account {account_id}: the treasury is missing")
    return Caller(
        account_id=account_id,
        key_id=key_id,
        payer=to_address(paying.address),
        kind=kind,
        scope=terms.scope,
        max_input_price=terms.max_input_price,
        max_output_price=terms.max_output_price,
    )
