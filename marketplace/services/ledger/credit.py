"""Credit: what the operator promises to accounts without a wallet, never more than its own deposit."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind, EntryKind
from marketplace.domain.errors import BadRequest, Broken, Conflict, InsufficientBalance, NotFound
from marketplace.storage.queries import accounts, entries
from marketplace.storage.queries.accounts import A
from marketplace.storage.queries.settlement import advance_under_way
from marketplace.storage.tables import Entry
from tallystick.protocol.money import NanoUsd, format_usd


class TreasuryShort(InsufficientBalance):
    """The operator's deposit does not cover another grant."""

    code = "treasury_short"

    def __init__(self, *, needed: NanoUsd, available: NanoUsd) -> None:
        super().__init__(needed=needed, available=available)
        self.message = (
            f"A grant of ${format_usd(needed)} is more than the treasury's deposit covers: "
            f"${format_usd(available)} is not promised yet. Deposit more at the market's own address."
        )
        self.args = (self.message,)


def grant_credit(session: Session, account_id: str, amount: NanoUsd, reference: str, now: int) -> None:
    """Give an account on credit `amount`, out of the treasury's deposit.

    A reference that is not empty can be granted once. Raises TreasuryShort, Conflict (that reference was
    granted), NotFound, or BadRequest for a wallet (deposit for it on the chain instead) or an amount that
    is not positive.
    """
    _check(amount)
    if reference and _was_granted(session, reference):
        raise Conflict(f"the grant {reference!r} was made already", code="granted_already")
    free = free_deposit(session)
    if free < amount:
        raise TreasuryShort(needed=amount, available=free)
    accounts.change(session, TREASURY_ID, granted=A.c.granted + amount)
    is_email = A.c.kind == AccountKind.EMAIL.value
    values = {"balance": A.c.balance + amount, "deposited": A.c.deposited + amount}
    if not accounts.change(session, account_id, is_email, **values):
        raise _no_credit_account(session, account_id)
    lines = [(account_id, EntryKind.GRANT, amount), (TREASURY_ID, EntryKind.PROMISE, -amount)]
    entries.add(session, lines[:1], now=now, reference=reference)
    entries.add(session, lines[1:], now=now, reference=reference or account_id)


def free_deposit(session: Session) -> NanoUsd:
    """Return how much of the treasury's deposit covers no credit and no request, and is not advanced by the
    epoch that is on its way; nobody else changes that before the end of the work."""
    treasury = accounts.lock(session, TREASURY_ID)
    if treasury is None:
        return NanoUsd(0)
    leaves = treasury.requested + advance_under_way(session)
    return NanoUsd(max(0, treasury.balance - treasury.granted - leaves))


def revoke_credit(session: Session, account_id: str, amount: NanoUsd, reference: str, now: int) -> NanoUsd:
    """Take back up to `amount` of an account's unspent and unheld credit; return how much it was."""
    _check(amount)
    free = session.execute(
        select(A.c.kind, A.c.balance - A.c.held).where(A.c.id == account_id).with_for_update()
    ).first()
    if free is None or free[0] != AccountKind.EMAIL:
        raise _no_credit_account(session, account_id)
    revoked = NanoUsd(max(0, min(amount, free[1])))
    values = {"balance": A.c.balance - revoked, "deposited": A.c.deposited - revoked}
    accounts.change(session, account_id, **values)
    accounts.change(session, TREASURY_ID, granted=A.c.granted - revoked)
    lines = [
        (account_id, EntryKind.GRANT_REVOKED, -revoked),
        (TREASURY_ID, EntryKind.PROMISE_REVOKED, revoked),
    ]
    entries.add(session, lines, now=now, reference=reference)
    return revoked


def settle_credit(session: Session, amount: NanoUsd, reference: str = "", now: int = 0) -> None:
    """Count `amount` of what accounts on credit spent as settled: the treasury owes that much less.

    Raises Broken if that is more than it has promised.
    """
    if amount < 0:
        raise Broken(f"{amount} of credit cannot be settled")
    if not accounts.change(session, TREASURY_ID, A.c.granted >= amount, granted=A.c.granted - amount):
        raise Broken(f"${format_usd(amount)} of credit to settle is more than the treasury has promised")
    entries.add(session, [(TREASURY_ID, EntryKind.PROMISE_KEPT, amount)], now=now, reference=reference)


def _was_granted(session: Session, reference: str) -> bool:
    table = Entry.__table__  # type: ignore[attr-defined]  # SQLModel makes it
    seen = select(table.c.id).where(table.c.kind == EntryKind.GRANT.value, table.c.reference == reference)
    return session.execute(seen).first() is not None


def _no_credit_account(session: Session, account_id: str) -> BadRequest | NotFound:
    account = accounts.find(session, account_id)
    if account is None:
        return NotFound(f"there is no account {account_id}")
    return BadRequest(
        f"account {account_id} is no account on credit: deposit for its address on the chain instead"
    )


def _check(amount: int) -> None:
    if amount <= 0:
        raise BadRequest(f"an amount must be more than 0, not {amount}")
