"""Credit by email address, for whoever runs the market: give, take back, and see what is promised."""

from collections.abc import Sequence
from dataclasses import dataclass

from email_validator import EmailNotValidError, validate_email
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID
from marketplace.domain.errors import BadRequest, NotFound
from marketplace.services import ledger
from marketplace.storage.queries import accounts
from marketplace.storage.queries.settlement import advance_under_way
from marketplace.storage.tables import Account
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class CreditLine:
    """One account on credit. Amounts in nano-dollars; `held` is part of `balance`."""

    account_id: str
    email: str
    status: str
    granted: NanoUsd
    spent: NanoUsd
    held: NanoUsd
    balance: NanoUsd


@dataclass(frozen=True, slots=True)
class CreditBook:
    """All accounts on credit, and what the operator's deposit still covers. Amounts in nano-dollars."""

    lines: tuple[CreditLine, ...]
    deposit: NanoUsd
    promised: NanoUsd
    free: NanoUsd


def grant(session: Session, email: str, amount: NanoUsd, reference: str, now: int) -> CreditLine:
    """Give the account of `email` so much credit; a reference that is not empty counts once.

    Raises NotFound, BadRequest, Conflict, or TreasuryShort if the operator's deposit does not cover it.
    """
    account = _account(session, email)
    ledger.grant_credit(session, account.id, amount, reference, now)
    return _line(session, account.id)


def revoke(
    session: Session, email: str, amount: NanoUsd, reference: str, now: int
) -> tuple[NanoUsd, CreditLine]:
    """Take back up to `amount` that is neither spent nor held; return how much it was, and what is left.

    Raises NotFound or BadRequest.
    """
    account = _account(session, email)
    revoked = ledger.revoke_credit(session, account.id, amount, reference, now)
    return revoked, _line(session, account.id)


def credit_book(session: Session) -> CreditBook:
    """Return every account on credit, by email, and the treasury's side of it."""
    treasury = accounts.find(session, TREASURY_ID)
    deposit, promised, leaving = (
        (0, 0, 0) if treasury is None else (treasury.balance, treasury.granted, treasury.requested)
    )
    lines: Sequence[Account] = accounts.on_credit(session)
    return CreditBook(
        lines=tuple(_line_of(account) for account in lines),
        deposit=NanoUsd(deposit),
        promised=NanoUsd(promised),
        free=NanoUsd(max(0, deposit - promised - leaving - advance_under_way(session))),
    )


def _account(session: Session, email: str) -> Account:
    try:
        address = validate_email(email.strip(), check_deliverability=False).normalized.lower()
    except EmailNotValidError as error:
        raise BadRequest(f"{email!r} is no e-mail address: {error}", param="email") from error
    account = accounts.by_email(session, address)
    if account is None:
        raise NotFound(
            f"There is no account of {address}. Its owner opens it: tallystick account sign-up {address}",
            code="account_not_found",
        )
    return account


def _line(session: Session, account_id: str) -> CreditLine:
    account = accounts.find(session, account_id)
    if account is None:
        raise NotFound(f"There is no account {account_id!r}.")
    return _line_of(account)


def _line_of(account: Account) -> CreditLine:
    return CreditLine(
        account_id=account.id,
        email=account.email or "",
        status=account.status,
        granted=NanoUsd(account.deposited),
        spent=NanoUsd(account.spent),
        held=NanoUsd(account.held),
        balance=NanoUsd(account.balance),
    )
