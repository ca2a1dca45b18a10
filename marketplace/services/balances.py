"""Where an account's money is, why it is not available, until when, and what releases it."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import NotFound
from marketplace.domain.ports.clock import Clock
from marketplace.services import ledger
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.queries.jobs import RUNNING, J
from marketplace.storage.tables import Account
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class NotAvailable:
    """An amount that cannot be spent now: why, until when (ms; None: open), and what releases it."""

    amount: NanoUsd
    reason: str
    until: int | None
    release_by: str


@dataclass(frozen=True, slots=True)
class BalanceStatement:
    """An account's money, in nano-dollars.

    `balance` is what is there, `available` what the next job can hold; `deposited`, `withdrawn`, `spent`,
    `authorized` and `consented` are cumulative. An account on credit has no rights to show: they are 0.
    """

    account_id: str
    kind: AccountKind
    address: Address | None
    deposited: NanoUsd
    withdrawn: NanoUsd
    spent: NanoUsd
    settled: NanoUsd
    balance: NanoUsd
    held: NanoUsd
    requested: NanoUsd
    authorized: NanoUsd
    consented: NanoUsd
    available: NanoUsd
    unavailable: tuple[NotAvailable, ...]


@dataclass(frozen=True, slots=True)
class OperatorStatement:
    """What an operator has earned, in nano-dollars: pending, matured, signed for, on the chain."""

    address: Address
    pending: NanoUsd
    earned: NanoUsd
    acknowledged: NanoUsd
    acknowledged_epoch: int
    settled: NanoUsd
    accruing_since: int | None


class Balances:
    """Statements, under the terms on which wallets may run ahead of their signatures."""

    def __init__(self, database: Database, terms: ledger.HoldTerms, clock: Clock) -> None:
        self._database = database
        self._terms = terms
        self._clock = clock

    async def statement(self, account_id: str) -> BalanceStatement:
        """Return the account's statement. Raises NotFound."""
        now = self._clock.now_ms()
        return await self._database.read(lambda session: statement(session, account_id, self._terms, now))

    async def operator_statement(self, address: Address) -> OperatorStatement:
        """Return what the account at `address` has earned. Raises NotFound if it never did anything here."""
        return await self._database.read(lambda session: operator_statement(session, address))


def statement(session: Session, account_id: str, terms: ledger.HoldTerms, now: int) -> BalanceStatement:
    """Return the account's statement at `now` (ms). Raises NotFound."""
    account = accounts.find(session, account_id)
    if account is None:
        raise NotFound(f"There is no account {account_id!r}.", code="account_not_found")
    free = max(0, account.balance - account.held - account.requested)
    available = free
    if account.kind == AccountKind.WALLET:
        allowance = ledger.unsigned_allowance(session, account, terms, now)
        right = max(account.authorized, account.consented) + allowance - account.spent - account.held
        available = max(0, min(free, right))
    elif account.kind == AccountKind.TREASURY:
        available = max(0, free - account.granted)
    return BalanceStatement(
        account_id=account.id,
        kind=AccountKind(account.kind),
        address=None if account.address is None else Address(account.address),
        deposited=NanoUsd(account.deposited),
        withdrawn=NanoUsd(account.withdrawn),
        spent=NanoUsd(account.spent),
        settled=NanoUsd(account.spent_settled),
        balance=NanoUsd(account.balance),
        held=NanoUsd(account.held),
        requested=NanoUsd(account.requested),
        authorized=NanoUsd(account.authorized),
        consented=NanoUsd(account.consented),
        available=NanoUsd(available),
        unavailable=_unavailable(session, account, free=free, available=available),
    )


def operator_statement(session: Session, address: Address) -> OperatorStatement:
    """Return what the account at `address` has earned. Raises NotFound."""
    account = accounts.by_address(session, address)
    if account is None:
        raise NotFound(f"Nothing is known of {address} here.", code="account_not_found")
    return OperatorStatement(
        address=address,
        pending=NanoUsd(account.earned_pending),
        earned=NanoUsd(account.earned),
        acknowledged=NanoUsd(account.acknowledged),
        acknowledged_epoch=account.acknowledged_epoch,
        settled=NanoUsd(account.earned_settled),
        accruing_since=account.earned_since,
    )


def _unavailable(
    session: Session, account: Account, *, free: int, available: int
) -> tuple[NotAvailable, ...]:
    parts = []
    if account.held:
        until = _last_hold(session, account.id)
        parts.append(
            NotAvailable(NanoUsd(account.held), "held for running jobs", until, "the end of the jobs")
        )
    if account.requested:
        parts.append(
            NotAvailable(
                NanoUsd(min(account.requested, max(0, account.balance))),
                "on its way out: a withdrawal is requested",
                account.requested_payable_at,
                "tallystick account withdraw",
            )
        )
    if account.kind == AccountKind.TREASURY and account.granted:
        reason = "promised as credit to accounts without a wallet"
        parts.append(NotAvailable(NanoUsd(account.granted), reason, None, "tallystick credit revoke"))
    elif free > available:
        reason = "not authorized, and no consent is signed for it"
        parts.append(NotAvailable(NanoUsd(free - available), reason, None, "tallystick account authorize"))
    return tuple(parts)


def _last_hold(session: Session, account_id: str) -> int | None:
    """Return when the last of the account's holds runs out (ms)."""
    until: int | None = session.scalar(
        select(func.max(J.c.expires_at)).where(J.c.account_id == account_id, RUNNING)
    )
    return until
