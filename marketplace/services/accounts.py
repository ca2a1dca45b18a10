"""Accounts: opened with an e-mail address (credit) or a wallet (its own deposit), and signing in to them.

sign_up_email ──▶ mailed link ──▶ verify_email ──▶ session, first key, perhaps a credit
request_sign_in ─▶ mailed link ──▶ verify_email ──▶ session
new_nonce ──▶ the wallet signs ──▶ sign_in_wallet ──▶ session
"""

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

import structlog
from email_validator import EmailNotValidError, validate_email
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    MarketError,
    NotAuthenticated,
    NotFound,
)
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.mail import Mail, Mailer
from marketplace.services import ledger
from marketplace.services.keys import SESSION_PREFIX, CreatedKey, KeyTerms, new_key, new_secret, secret_hash
from marketplace.services.ledger.credit import TreasuryShort
from marketplace.services.limits import MailLimits, mailbox_of
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts, entries, sign_ins
from marketplace.storage.tables import Account, EmailToken, SignInNonce
from marketplace.storage.tables import Session as SessionRow
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd, format_usd

log = structlog.get_logger(__name__)

LINK_PREFIX: Final = "tsv_"
WELCOME: Final = "sign-up "
"""How the references of sign-up credit begin in the journal."""
DAY_MS: Final = 86_400_000
NONCE_MS: Final = 10 * 60_000
NOTHING: Final = NanoUsd(0)


@dataclass(frozen=True, slots=True)
class AccountRules:
    """How accounts are opened here.

    `verify_emails` False (one machine, no mail server) opens them at once.
    """

    open_sign_up: bool
    verify_emails: bool
    signup_credit: NanoUsd
    session_ms: int
    link_ms: int
    address: str
    """How people reach this coordinator, for the link in the mail."""
    daily_credit: NanoUsd | None = None
    """What all sign-ups of a day are given together; None: no bound."""
    mails_per_hour: int = 0
    """To one mailbox, whoever asks for them; 0: no limit."""
    mails_per_day: int = 0


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session's token, shown this once.

    `key` and `credit` are a new account's; `note` says what is amiss.
    """

    account_id: str
    session: str
    expires_at: int
    key: CreatedKey | None = None
    credit: NanoUsd = NOTHING
    note: str = ""


class _DayIsOver(Exception):
    """New accounts were given what they may be given in a day."""


class Accounts:
    """Opens accounts and signs people in."""

    def __init__(self, database: Database, clock: Clock, mailer: Mailer, rules: AccountRules) -> None:
        self._database = database
        self._clock = clock
        self._mailer = mailer
        self._rules = rules
        self._mails = MailLimits(rules.mails_per_hour, rules.mails_per_day, lambda: clock.now_ms() / 1000)
        self._mailing: set[asyncio.Task[None]] = set()

    async def close(self, timeout: float = 5.0) -> None:
        """Let the mails that are on their way go out."""
        if self._mailing:
            await asyncio.wait(self._mailing, timeout=timeout)

    async def sign_up_email(self, email: str) -> SignedIn | None:
        """Mail a link that opens an account, or signs in to the one there is; who asks cannot tell which.

        Where mails are not verified, open it at once and return the session.
        Raises BadRequest for what is no address, Forbidden if sign-up is closed, Conflict if mails are not
        verified and the account exists, TooFast if this mailbox was sent as much as it may be, Unavailable if
        the mail is not sent.
        """
        address = _normal(email)
        if not self._rules.open_sign_up:
            raise Forbidden("This market opens accounts by invitation only.", code="sign_up_closed")
        now = self._clock.now_ms()
        if not self._rules.verify_emails:
            return await self._database.write(lambda session: self._open_at_once(session, address, now))
        self._mails.check(address)
        token = new_secret(LINK_PREFIX)
        await self._database.write(
            lambda session: self._link(session, _account_for(session, address, now), token, now)
        )
        await self._mail_link(address, token)
        return None

    async def request_sign_in(self, email: str) -> None:
        """Mail a link that signs in to the account of `email`; do nothing, silently, if there is none.

        It returns before it is known whether there is one, so that nobody can tell by the time it takes.
        Raises TooFast if this mailbox was asked for as often as it may be, account or not.
        """
        address = _normal(email)
        self._mails.check(address)
        task = asyncio.create_task(self._sign_in_by_mail(address), name="mail a sign-in")
        self._mailing.add(task)
        task.add_done_callback(self._mailing.discard)

    async def _sign_in_by_mail(self, address: str) -> None:
        now = self._clock.now_ms()
        token = new_secret(LINK_PREFIX)

        def work(session: Session) -> bool:
            account = accounts.by_email(session, address)
            if account is not None:
                self._link(session, account, token, now)
            return account is not None

        try:
            if await self._database.write(work):
                await self._mail_link(address, token)
        except MarketError as error:
            log.warning("sign_in_not_mailed", error=error.message)

    async def verify_email(self, token: str) -> SignedIn:
        """Use a mailed link: sign in, and open the account if it is the first time.

        Raises NotAuthenticated for a link that was used, has expired or never was; Forbidden if suspended.
        """
        now = self._clock.now_ms()

        def work(session: Session) -> SignedIn:
            account_id = sign_ins.use_link(session, secret_hash(token), now)
            account = None if account_id is None else accounts.find(session, account_id)
            if account is None:
                raise NotAuthenticated(
                    "This link was used or has expired; ask for a new one.", code="bad_link"
                )
            return self._open_session(session, account, now)

        return await self._database.write(work)

    async def new_nonce(self) -> tuple[str, int]:
        """Return a nonce for a wallet's sign-in message, and when it expires (ms)."""
        nonce, expires_at = secrets.token_hex(16), self._clock.now_ms() + NONCE_MS
        await self._database.write(
            lambda session: session.add(SignInNonce(nonce=nonce, expires_at=expires_at))
        )
        return nonce, expires_at

    async def sign_in_wallet(self, address: Address, nonce: str) -> SignedIn:
        """Sign in the wallet that signed `nonce` (checked by the caller), opening its account the first time.

        Raises NotAuthenticated for a nonce that was used, has expired or never was; Forbidden if suspended.
        """
        now = self._clock.now_ms()

        def work(session: Session) -> SignedIn:
            if not sign_ins.use_nonce(session, nonce, now):
                raise NotAuthenticated(
                    "This nonce was used or has expired; ask for a new one.", code="bad_nonce"
                )
            return self._open_session(session, ledger.ensure_wallet(session, address, now), now)

        return await self._database.write(work)

    async def wallet_account(self, address: Address) -> str:
        """Return the id of the account at `address`, made if need be."""
        now = self._clock.now_ms()
        return await self._database.write(lambda session: ledger.ensure_wallet(session, address, now).id)

    async def find_by_email(self, email: str) -> str:
        """Return the id of the account of `email`. Raises NotFound or BadRequest."""
        address = _normal(email)
        account = await self._database.read(lambda session: accounts.by_email(session, address))
        if account is None:
            raise NotFound(f"There is no account of {address}.", code="account_not_found")
        return account.id

    async def sign_out(self, token: str) -> None:
        """End a session."""
        await self._database.write(lambda session: sign_ins.end_session(session, secret_hash(token)))

    async def sweep(self) -> int:
        """Forget nonces, links and sessions that have expired; return how many."""
        now = self._clock.now_ms()
        return await self._database.write(lambda session: sign_ins.sweep(session, now))

    def _open_at_once(self, session: Session, email: str, now: int) -> SignedIn:
        if accounts.by_email(session, email) is not None:
            raise Conflict(
                f"{email} cannot open another account. If it is yours, sign in to it: tallystick account "
                f"sign-in --email {email}. The link is mailed (without a mail server: into the coordinator's "
                "`mail` folder).",
                code="account_exists",
                param="email",
            )
        return self._open_session(session, _account_for(session, email, now), now)

    def _link(self, session: Session, account: Account, token: str, now: int) -> None:
        purpose = "sign_in" if account.email_verified else "verify"
        expires_at = now + self._rules.link_ms
        digest = secret_hash(token)
        session.add(EmailToken(hash=digest, account_id=account.id, purpose=purpose, expires_at=expires_at))

    def _open_session(self, session: Session, account: Account, now: int) -> SignedIn:
        if account.status != "active":
            raise Forbidden(f"This account is {account.status}.", code="account_suspended")
        token, expires_at = new_secret(SESSION_PREFIX), now + self._rules.session_ms
        session.add(SessionRow(hash=secret_hash(token), account_id=account.id, expires_at=expires_at))
        if account.kind != AccountKind.EMAIL or account.email_verified:
            return SignedIn(account.id, token, expires_at)
        accounts.change(session, account.id, email_verified=True)
        key = new_key(session, account.id, KeyTerms(name="first key"), now)
        credit, note = self._welcome(session, account, now)
        return SignedIn(account.id, token, expires_at, key, credit, note)

    def _welcome(self, session: Session, account: Account, now: int) -> tuple[NanoUsd, str]:
        """Grant the sign-up credit, once per mailbox; return what was granted, and why it was not."""
        credit = self._rules.signup_credit
        if credit == 0:
            return NOTHING, "This account has no credit yet; ask the operator of the market for some."
        try:
            with session.begin_nested():
                ledger.grant_credit(session, account.id, credit, _welcome_reference(account), now)
                self._check_day(session, now)
        except _DayIsOver:
            return NOTHING, (
                "What this market gives to new accounts in a day is given away. Ask the operator for credit."
            )
        except TreasuryShort:
            return NOTHING, (
                f"The market cannot give ${format_usd(credit)} of credit at the moment: the operator's "
                "deposit is promised already. Ask the operator for some."
            )
        except Conflict:
            return NOTHING, "Another account of this mailbox was given the credit for new accounts."
        return credit, ""

    def _check_day(self, session: Session, now: int) -> None:
        """Raise _DayIsOver if the grant that was just made is more than all of a day may be."""
        most = self._rules.daily_credit
        if most is not None and entries.granted_since(session, WELCOME, now - DAY_MS) > most:
            raise _DayIsOver

    async def _mail_link(self, email: str, token: str) -> None:
        minutes = self._rules.link_ms // 60_000
        text = (
            f"Somebody, probably you, asked to sign in to the Tallystick market at {self._rules.address}.\n\n"
            f"Open this link:\n\n    {self._rules.address}/verify?token={token}\n\n"
            f"or run:\n\n    tallystick account verify {token}\n\n"
            f"It works once, for {minutes} minutes. If this address has an account, it signs in to that one; "
            "otherwise it opens one. If it was not you, do nothing.\n"
        )
        await self._mailer.send(Mail(to=email, subject="Sign in to Tallystick", text=text))


def _account_for(session: Session, email: str, now: int) -> Account:
    """Return the account of `email`, made unverified if need be."""
    accounts.create(session, "acct_" + secrets.token_hex(10), AccountKind.EMAIL, now, email=email)
    account = accounts.by_email(session, email)
    if account is None:
        raise Conflict(f"the account of {email} could not be made")
    return account


def _normal(email: str) -> str:
    """Return an address in lower case. Raises BadRequest if it is none."""
    try:
        return validate_email(email.strip(), check_deliverability=False).normalized.lower()
    except EmailNotValidError as error:
        raise BadRequest(f"{email!r} is no e-mail address: {error}", param="email") from error


def _welcome_reference(account: Account) -> str:
    """Return what is granted once, to a mailbox."""
    mailbox = mailbox_of(account.email or account.id)
    return WELCOME + hashlib.sha256(mailbox.encode()).hexdigest()[:32]
