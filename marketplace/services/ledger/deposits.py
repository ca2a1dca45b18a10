"""What the chain says about deposits, rights and withdrawals, as it enters the books.

Whoever reads the chain makes sure that each event comes here once, and is undone when a reorganisation
takes it back.
"""

from sqlalchemy import delete, or_
from sqlalchemy.orm import Session

from marketplace.domain.accounts import TREASURY_ID, AccountKind, EntryKind
from marketplace.domain.errors import BadRequest, Broken, Conflict, NotFound
from marketplace.storage.dialects import insert_or_ignore
from marketplace.storage.queries import accounts, entries
from marketplace.storage.queries.accounts import A
from marketplace.storage.tables import Account, ConsentKey
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd


def ensure_treasury(session: Session, address: Address, now: int) -> None:
    """Make the treasury's account, at the address that owns the Ledger, if it is not there.

    Raises Conflict if it has another address, or another account has this one.
    """
    accounts.create(session, TREASURY_ID, AccountKind.TREASURY, now, address=address)
    treasury = accounts.find(session, TREASURY_ID)
    if treasury is None or treasury.address != address:
        holder = "another account" if treasury is None else f"the treasury at {treasury.address}"
        raise Conflict(
            f"the books cannot have a treasury at {address}: they have {holder}", code="treasury_exists"
        )


def ensure_wallet(session: Session, address: Address, now: int) -> Account:
    """Return the account at `address` (a wallet's, or the treasury), made if need be."""
    account = accounts.by_address(session, address)
    if account is None:
        accounts.create(session, address, AccountKind.WALLET, now, address=address)
        account = accounts.by_address(session, address)
    if account is None:
        raise Broken(f"the account of {address} could not be made")
    return account


def credit_deposit(session: Session, address: Address, amount: NanoUsd, reference: str, now: int) -> str:
    """Add a confirmed deposit to the balance of `address`; return the account's id."""
    _check_positive(amount)
    account = ensure_wallet(session, address, now)
    _move(session, account.id, EntryKind.DEPOSIT, amount, reference, now, deposited=A.c.deposited + amount)
    return account.id


def undo_deposit(session: Session, address: Address, amount: NanoUsd, reference: str, now: int) -> str:
    """Take back a deposit that a reorganisation removed; the balance may end up below zero."""
    _check_positive(amount)
    account = _at(session, address)
    change = {"deposited": A.c.deposited - amount}
    _move(session, account.id, EntryKind.DEPOSIT_UNDONE, -amount, reference, now, **change)
    return account.id


def set_authorized(session: Session, address: Address, authorized: NanoUsd, now: int = 0) -> None:
    """Set the right that the chain has for the account; it falls only when it leaves with everything."""
    account = ensure_wallet(session, address, now)
    ahead = accounts.caught_up(authorized)
    accounts.change(session, account.id, authorized=authorized, unsigned_since=ahead)


def add_consent_key(session: Session, address: Address, key: Address, now: int = 0) -> None:
    """Let `key` sign consents for the account at `address`. Keys are only added."""
    account = ensure_wallet(session, address, now)
    table = ConsentKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it
    session.execute(insert_or_ignore(session, table).values(account_id=account.id, address=key))


def drop_consent_key(session: Session, address: Address, key: Address) -> None:
    """Take back a consent key that a reorganisation removed, and the consent that it may have signed.

    What the chain was shown of that consent is in `authorized`; for the rest the consumer signs again.
    """
    account = _at(session, address)
    table = ConsentKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it
    session.execute(delete(table).where(table.c.account_id == account.id, table.c.address == key))
    accounts.change(session, account.id, consented=0, consent_signature=None)


def store_consent(session: Session, account_id: str, spent: NanoUsd, signature: bytes) -> bool:
    """Keep a checked consent if it is for more than the last one; return whether it was."""
    values = {"consented": spent, "consent_signature": signature}
    ahead = accounts.caught_up(spent)
    return accounts.change(session, account_id, A.c.consented < spent, unsigned_since=ahead, **values)


def note_withdrawal_request(
    session: Session, address: Address, amount: NanoUsd, payable_at: int, now: int = 0
) -> None:
    """Take `amount` out of what can be held as soon as the request is seen; a new one replaces the old.

    `payable_at` is in milliseconds. An amount of 0 means that there is no request (any more).
    """
    account = ensure_wallet(session, address, now)
    accounts.change(session, account.id, requested=amount, requested_payable_at=payable_at)


def apply_withdrawal(session: Session, address: Address, amount: NanoUsd, reference: str, now: int) -> None:
    """Book what the account withdrew; its request is gone with it, as on the chain."""
    account = _at(session, address)
    change = {"withdrawn": A.c.withdrawn + amount, "requested": 0, "requested_payable_at": 0}
    _move(session, account.id, EntryKind.WITHDRAWAL, -amount, reference, now, **change)


def undo_withdrawal(session: Session, address: Address, amount: NanoUsd, reference: str, now: int) -> None:
    """Take back a withdrawal that a reorganisation removed: the amount is requested again, and due."""
    account = _at(session, address)
    change = {"withdrawn": A.c.withdrawn - amount, "requested": amount, "requested_payable_at": now}
    _move(session, account.id, EntryKind.WITHDRAWAL_UNDONE, amount, reference, now, **change)


def _at(session: Session, address: Address) -> Account:
    account = accounts.by_address(session, address)
    if account is None:
        raise NotFound(f"there is no account at {address}")
    return account


def _move(
    session: Session,
    account_id: str,
    kind: EntryKind,
    amount: int,
    reference: str,
    now: int,
    **values: object,
) -> None:
    """Add `amount` (signed) to the balance, change what goes with it, and write the journal."""
    wallet_or_treasury = or_(A.c.kind == AccountKind.WALLET.value, A.c.kind == AccountKind.TREASURY.value)
    if not accounts.change(session, account_id, wallet_or_treasury, balance=A.c.balance + amount, **values):
        raise Broken(f"account {account_id} has no deposit of its own to book {kind.value} on")
    entries.add(session, [(account_id, kind, amount)], now=now, reference=reference)


def _check_positive(amount: int) -> None:
    if amount <= 0:
        raise BadRequest(f"an amount must be more than 0, not {amount}")
