"""Holds: the most that a job can cost, set aside before it runs."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import (
    Conflict,
    ConsentNeeded,
    Forbidden,
    InsufficientBalance,
    KeyCapReached,
    MarketError,
    NotAuthenticated,
    UnsignedBudgetSpent,
)
from marketplace.domain.jobs import AcceptedJob, JobState
from marketplace.storage.queries import accounts, jobs, keys
from marketplace.storage.tables import Account
from tallystick.protocol.ids import JobId
from tallystick.protocol.money import NanoUsd

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """How far a wallet may run ahead of its signatures, and all that begin to in a day; nano-dollars."""

    unsigned_allowance: NanoUsd
    unsigned_daily: NanoUsd | None = None
    """None: no bound. A wallet counts with its whole allowance until it has caught up, for a day at most."""


def open_hold(session: Session, job: AcceptedJob, *, expires_at: int, terms: HoldTerms) -> None:
    """Set `job.hold` aside on the account and under the key's cap until `expires_at` (ms); store the job.

    Raises InsufficientBalance, ConsentNeeded, UnsignedBudgetSpent, KeyCapReached, Forbidden (the account is
    suspended, or may not run jobs) or NotAuthenticated (the key is gone); nothing is held then. Refuses,
    never shrinks.
    """
    request = job.request
    if not accounts.hold(session, request.account_id, job.hold, 0):
        _hold_unsigned(session, job, terms)
    if request.key_id and not keys.hold(
        session, request.key_id, request.account_id, job.hold, job.accepted_at_ms
    ):
        raise _why_not_with_key(session, request.key_id, job.hold)
    jobs.add(
        session,
        id=job.id,
        account_id=request.account_id,
        key_id=request.key_id,
        model_id=request.model_id,
        model_name=request.model_name,
        hold=job.hold,
        input_price=job.input_price,
        output_price=job.output_price,
        fee_bps=job.fee_bps,
        prompt_tokens=len(request.prompt_ids),
        accepted_at=job.accepted_at_ms,
        expires_at=expires_at,
    )


def _hold_unsigned(session: Session, job: AcceptedJob, terms: HoldTerms) -> None:
    """Hold what the account has no right to spend yet, within its allowance and the day's budget."""
    account_id, now = job.request.account_id, job.accepted_at_ms
    if not accounts.hold(session, account_id, job.hold, terms.unsigned_allowance):
        raise _why_not(session, account_id, job.hold, terms)
    if not accounts.begin_unsigned(session, account_id, now):
        return
    if not _fits_the_day(session, terms, now):
        raise UnsignedBudgetSpent()


def unsigned_allowance(session: Session, account: Account, terms: HoldTerms, now: int) -> NanoUsd:
    """Return how far a wallet may run ahead of its right now: nothing if it does not yet and the day's budget
    is spent."""
    if account.unsigned_since is not None or _fits_the_day(session, terms, now, 1):
        return terms.unsigned_allowance
    return NanoUsd(0)


def _fits_the_day(session: Session, terms: HoldTerms, now: int, more: int = 0) -> bool:
    """Return whether the wallets that ran ahead within a day, and so many more, are within the budget."""
    if terms.unsigned_daily is None:
        return True
    count = accounts.unsigned_since(session, now - DAY_MS) + more
    return count * terms.unsigned_allowance <= terms.unsigned_daily


def expire_holds(session: Session, now: int, limit: int = 1000) -> list[JobId]:
    """Release the holds that nobody closed in time; return their jobs."""
    released = []
    for job_id in jobs.expired(session, now, limit):
        if close_unpaid(session, job_id, error="expired", now=now) is not None:
            released.append(JobId(job_id))
    return released


def close_unpaid(session: Session, job_id: bytes, *, error: str, now: int) -> jobs.Held | None:
    """Fail an accepted job and give its whole hold back; return it, None if the job is closed."""
    held = jobs.close(
        session, job_id, JobState.FAILED, now=now, error=error, prompt_tokens=0, output_tokens=0
    )
    if held is not None:
        give_back(session, held, charge=0)
    return held


def give_back(session: Session, held: jobs.Held, *, charge: int) -> None:
    """End a hold: `charge` of it is spent, the rest is available again."""
    accounts.settle_hold(session, held.account_id, held.hold, charge)
    if held.key_id:
        keys.settle_hold(session, held.key_id, held.hold, charge)


def _why_not(session: Session, account_id: str, amount: NanoUsd, terms: HoldTerms) -> MarketError:
    account = accounts.find(session, account_id)
    if account is None:
        return NotAuthenticated("There is no such account.")
    if account.status != "active":
        return Forbidden(f"This account is {account.status}.", code="account_suspended")
    if account.kind == AccountKind.TREASURY:
        return Forbidden(
            "The market's own account cannot run jobs. Use another wallet, or an account on credit.",
            code="treasury_account",
        )
    available = NanoUsd(max(0, account.balance - account.held - account.requested))
    right = max(account.authorized, account.consented)
    if available < amount or account.kind != AccountKind.WALLET:
        return InsufficientBalance(needed=amount, available=available)
    if right + terms.unsigned_allowance - account.spent - account.held < amount:
        spent = NanoUsd(account.spent + account.held)
        return ConsentNeeded(needed=amount, authorized=NanoUsd(right), spent=spent)
    return Conflict("The balance changed in this moment; try again.", code="try_again")


def _why_not_with_key(session: Session, key_id: str, amount: NanoUsd) -> MarketError:
    key = keys.find(session, key_id)
    if key is None or key.revoked_at is not None or key.cap is None:
        return NotAuthenticated("This API key was revoked.")
    return KeyCapReached(needed=amount, left=NanoUsd(max(0, key.cap - key.spent - key.held)))
