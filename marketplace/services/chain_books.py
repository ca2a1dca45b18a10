"""Events of the chain as they enter the books, each once, and leave them after a reorganisation."""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy.orm import Session

from marketplace.domain.ports.chain import (
    Authorized,
    Cashed,
    ChainAccount,
    ChainEvent,
    ConsentKeyAdded,
    Deposited,
    StakeChanged,
    WithdrawalRequested,
    Withdrawn,
)
from marketplace.services import ledger
from marketplace.services.alarms import alarm
from marketplace.storage.queries import accounts, settlement
from marketplace.storage.queries import chain as queries
from marketplace.storage.tables import ChainEventRow
from tallystick.protocol.ids import Address, to_hex
from tallystick.protocol.money import NanoUsd

MOST: Final = 2**62
"""Rights, requests, and all that an account ever deposits or withdraws are cut to this (four billion
dollars), so that sums fit the 64-bit columns. The books never have more than the chain: an account whose
withdrawals are cut has nothing left of what it deposited.
"""

CONSENT_KEY: Final = "consent key "
"""How the kind of an event begins that added the key which follows."""
CANCELLED: Final = "cancelled request"
"""The kind of an event that took a request back. Books that were begun earlier lack those of then."""


def apply_confirmed(
    session: Session, events: Sequence[ChainEvent], latest: Mapping[Address, ChainAccount], now: int
) -> None:
    """Book what is deep enough to count: deposits, rights, consent keys and cashed cheques.

    `latest` has the accounts of all `Authorized` events as of now: a right that was taken back in the
    meantime must not come back to life.
    """
    for event in events:
        match event:
            case Deposited():
                _book_deposit(session, event, now)
            case Authorized():
                right = min(event.authorized, latest[event.account].authorized, MOST)
                ledger.set_authorized(session, event.account, NanoUsd(right), now)
                _is_new(session, event, "authorized", event.account, right)
            case ConsentKeyAdded():
                ledger.add_consent_key(session, event.account, event.key, now)
                _is_new(session, event, CONSENT_KEY + event.key, event.account, 0)
            case Cashed():
                _note_cashed(session, event, now)
            case WithdrawalRequested() | Withdrawn() | StakeChanged():
                pass


def apply_fresh(
    session: Session, events: Sequence[ChainEvent], latest: Mapping[Address, ChainAccount], now: int
) -> None:
    """Book what counts from the moment it is seen: requests, withdrawals, and rights that were taken back.

    `latest` has the accounts of all `Authorized` events as of now: after a reorganisation old events are read
    again, and a right that was smaller once has not been taken back.
    """
    for event in events:
        match event:
            case WithdrawalRequested():
                amount = NanoUsd(min(event.amount, MOST))
                ledger.note_withdrawal_request(session, event.account, amount, event.payable_at * 1000, now)
                if not amount:
                    _is_new(session, event, CANCELLED, event.account, amount)
            case Withdrawn():
                _book_withdrawal(session, event, now)
            case Authorized():
                known = accounts.by_address(session, event.account)
                right = latest[event.account].authorized
                if known is not None and right < known.authorized:
                    ledger.set_authorized(session, event.account, right, now)
            case Deposited() | ConsentKeyAdded() | Cashed() | StakeChanged():
                pass


def _book_deposit(session: Session, event: Deposited, now: int) -> None:
    account = ledger.ensure_wallet(session, event.account, now)
    amount = NanoUsd(min(event.amount, MOST - account.deposited))
    if _is_new(session, event, "deposit", event.account, amount) and amount:
        ledger.credit_deposit(session, event.account, amount, _reference(event), now)


def _book_withdrawal(session: Session, event: Withdrawn, now: int) -> None:
    account = ledger.ensure_wallet(session, event.account, now)
    amount = NanoUsd(min(event.amount, MOST - account.withdrawn))
    if _is_new(session, event, "withdrawal", event.account, amount):
        ledger.apply_withdrawal(session, event.account, amount, _reference(event), now)


def undo(
    session: Session, rows: Sequence[ChainEventRow], latest: Mapping[Address, ChainAccount], now: int
) -> None:
    """Take back what a reorganisation removed; `rows` come latest first.

    `latest` has the accounts of all rows as of now. A deposit that was spent meanwhile leaves a debt.
    """
    for row in rows:
        if not queries.drop_event(session, row):
            continue
        address, amount = Address(row.account_id), NanoUsd(row.amount)
        reference = f"{to_hex(row.transaction)}/{row.log_index}"
        if row.kind == "deposit" and amount:
            ledger.undo_deposit(session, address, amount, reference, now)
        elif row.kind == "withdrawal":
            ledger.undo_withdrawal(session, address, amount, reference, now)
        elif row.kind.startswith(CONSENT_KEY):
            ledger.drop_consent_key(session, address, Address(row.kind.removeprefix(CONSENT_KEY)))
        ledger.set_authorized(session, address, NanoUsd(min(latest[address].authorized, MOST)), now)
        alarm(
            "chain_event_undone", kind_of_event=row.kind, account=address, amount=amount, reference=reference
        )


def _note_cashed(session: Session, event: Cashed, now: int) -> None:
    account = ledger.ensure_wallet(session, event.account, now)
    if event.credited > account.earned:
        # A cheque that these books do not know of, so they are not those of the coordinator that signed it.
        alarm("cheque_beyond_books", account=event.account, credited=event.credited, earned=account.earned)
        return
    ledger.mark_payout_settled(session, account.id, event.credited)
    settlement.note_cashed(session, event.account, event.credited)


def _is_new(session: Session, event: ChainEvent, kind: str, account: Address, amount: int) -> bool:
    place = event.place
    row = ChainEventRow(
        transaction=place.transaction,
        log_index=place.log_index,
        block_number=place.block_number,
        block_hash=place.block_hash,
        kind=kind,
        account_id=account,
        amount=amount,
    )
    return queries.add_event(session, row)


def _reference(event: ChainEvent) -> str:
    return f"{to_hex(event.place.transaction)}/{event.place.log_index}"
