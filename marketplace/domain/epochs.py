"""Which rows an epoch gets: pure, so that the same books and the same chain always give the same rows.

    charges of consumers ──▶ pool ──▶ payouts of operators
    treasury's charge    ──▶      ──▶ treasury's payout      one of the two, so that the pool ends at zero

An account gets a row once it is worth one (`row_threshold`), when it is leaving, or when it has waited
long enough. Operators are paid for work whose consumers are not due yet: the treasury advances that out
of its own deposit, and takes it back when those consumers' rows come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.domain.ports.chain import ChainAccount, Consent
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd

NOTHING: Final = ChainAccount(NanoUsd(0), NanoUsd(0), NanoUsd(0), NanoUsd(0))


@dataclass(frozen=True, slots=True)
class EpochClock:
    """When epochs begin and end; seconds since 1970."""

    genesis: int
    length: int

    def at(self, seconds: int) -> int:
        """Return the epoch that runs at a time; 0 also before the first one starts."""
        return max(0, seconds - self.genesis) // self.length

    def end_of(self, epoch: int) -> int:
        """Return when an epoch ends: the first second that is not in it."""
        return self.genesis + (epoch + 1) * self.length

    def last_ended(self, seconds: int) -> int | None:
        """Return the latest epoch that is over at a time, or None if the first one is not."""
        running = self.at(seconds)
        return running - 1 if running else None

    def promised(self, seconds: int, longest_wait: int) -> int:
        """Return the epoch by whose closing work that has matured by now is settled, at the latest."""
        return self.at(seconds) + longest_wait + 1


@dataclass(frozen=True, slots=True)
class Debtor:
    """A wallet that has spent: `matured` is cumulative. `accruing_since` is in milliseconds."""

    account_id: str
    address: Address
    matured: NanoUsd
    consent: Consent | None
    is_leaving: bool
    accruing_since: int | None


@dataclass(frozen=True, slots=True)
class Creditor:
    """An operator that has earned: `matured` is cumulative. `accruing_since` is in milliseconds."""

    account_id: str
    address: Address
    matured: NanoUsd
    accruing_since: int | None


@dataclass(frozen=True, slots=True)
class RowRules:
    """When an account is due: amounts worth a row, and the longest that anything waits (milliseconds)."""

    row_threshold: NanoUsd
    longest_wait_ms: int


@dataclass(frozen=True, slots=True)
class Treasury:
    """The account that balances the pool out of its own deposit, which also covers the credit it granted.

    `free` is its deposit less requests and all granted credit, `credit` the part of the granted credit whose
    spending has matured, `owed` what all operators have matured and not been credited on the chain.
    """

    account_id: str
    address: Address
    on_chain: ChainAccount
    free: NanoUsd
    credit: NanoUsd
    owed: NanoUsd

    def advance_limit(self, brought_in: int) -> NanoUsd:
        """Return the most that it may advance when consumers bring in so much.

        What is left must cover the credit that is not settled. Credit is settled when no operator waits
        for it any more, so an advance that pays operators frees as much cover as it takes, once the rest
        of `owed` is paid.
        """
        most = min(self.on_chain.balance, self.on_chain.authorized - self.on_chain.spent)
        pays_for_itself = self.free >= self.owed - brought_in - self.credit
        return NanoUsd(max(0, most if pays_for_itself else min(most, self.free)))

    def credit_after(self, payouts: Sequence["Line"]) -> NanoUsd:
        """Return the credit that is settled when such rows are, its own payout among them or not.

        It is fixed with the rows. Of what matures before they are on the chain, more may be owed than is used
        on credit: counted then, less credit would be settled than the advance was planned on.
        """
        paid = sum(line.moves for line in payouts if line.address != self.address)
        return credit_settled(self.credit, self.owed - paid)


@dataclass(frozen=True, slots=True)
class Line:
    """One row: cumulative `amount`, `before` what the chain has, so it moves `amount − before`."""

    account_id: str
    address: Address
    before: NanoUsd
    amount: NanoUsd
    consent: Consent | None = None

    @property
    def moves(self) -> NanoUsd:
        """What the row moves."""
        return NanoUsd(self.amount - self.before)


@dataclass(frozen=True, slots=True)
class Plan:
    """An epoch's rows; the treasury's row is the last of its list. `deferred` is what had to wait."""

    charges: tuple[Line, ...] = ()
    payouts: tuple[Line, ...] = ()
    deferred: Mapping[Address, NanoUsd] = field(default_factory=dict)
    """Payouts, or parts of them, that the treasury could not advance; nano-dollars."""
    short: Mapping[Address, NanoUsd] = field(default_factory=dict)
    """What consumers owe beyond their deposit on the chain, which is lost unless they deposit again."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        return not self.charges and not self.payouts


def is_due(amount: int, since: int | None, rules: RowRules, now_ms: int, *, is_leaving: bool = False) -> bool:
    """Return whether `amount`, accruing since then, gets a row now."""
    if amount <= 0:
        return False
    waited = since is not None and now_ms - since >= rules.longest_wait_ms
    return amount >= rules.row_threshold or is_leaving or waited


def chargeable(debtor: Debtor, on_chain: ChainAccount) -> NanoUsd:
    """Return how far the debtor's `spent` may go on the chain: matured, within its right and its balance."""
    consented = debtor.consent.spent if debtor.consent else 0
    right = max(on_chain.authorized, consented)
    return NanoUsd(max(on_chain.spent, min(debtor.matured, right, on_chain.spent + on_chain.balance)))


def charge_line(debtor: Debtor, on_chain: ChainAccount) -> Line:
    """Return the debtor's row; the consent goes with it only where it is needed."""
    amount = chargeable(debtor, on_chain)
    consent = debtor.consent if amount > on_chain.authorized else None
    return Line(debtor.account_id, debtor.address, on_chain.spent, amount, consent)


def recharged(line: Line, on_chain: ChainAccount) -> Line:
    """Return a debtor's row that was not sent as it can be sent now: for no more than it was planned for."""
    debtor = Debtor(line.account_id, line.address, line.amount, line.consent, False, None)
    return charge_line(debtor, on_chain)


def plan_rows(
    debtors: Sequence[Debtor],
    creditors: Sequence[Creditor],
    on_chain: Mapping[Address, ChainAccount],
    treasury: Treasury,
    rules: RowRules,
    now_ms: int,
) -> Plan:
    """Return the rows of an epoch, the pool balanced by the treasury.

    `on_chain` has the Ledger's account of every address (missing: never used). Order is by address, so
    the plan does not depend on the order of the books.
    """
    charges, short = [], {}
    for debtor in sorted(debtors, key=lambda one: one.address):
        account = on_chain.get(debtor.address, NOTHING)
        row = charge_line(debtor, account)
        if is_due(row.moves, debtor.accruing_since, rules, now_ms, is_leaving=debtor.is_leaving):
            charges.append(row)
        owed = debtor.matured - account.spent - account.balance
        if owed > 0:
            short[debtor.address] = NanoUsd(owed)
    payouts = [
        line
        for creditor in sorted(creditors, key=_longest_waiting_first)
        if (line := _payout_line(creditor, on_chain))
        and is_due(line.moves, creditor.accruing_since, rules, now_ms)
    ]
    charges, payouts, deferred = balance(charges, payouts, treasury, pool=NanoUsd(0))
    return Plan(tuple(charges), tuple(payouts), deferred, short)


def balance(
    charges: Sequence[Line],
    payouts: Sequence[Line],
    treasury: Treasury,
    *,
    pool: NanoUsd,
    may_charge: bool = True,
) -> tuple[list[Line], list[Line], dict[Address, NanoUsd]]:
    """Return the rows with the treasury's among them, so that the pool ends at zero, and what was deferred.

    `payouts` are served in the given order and returned by address; the first that does not fit is paid
    in part. `may_charge` False: charges are past, so only what is in the pool can be paid out.
    """
    brought_in = pool + sum(line.moves for line in charges)
    wanted = sum(line.moves for line in payouts)
    limit = treasury.advance_limit(brought_in) if may_charge else 0
    left = min(wanted, brought_in + limit)
    served, deferred = [], {}
    for line in payouts:
        given = min(line.moves, left)
        left -= given
        if given:
            paid = NanoUsd(line.before + given)
            served.append(Line(line.account_id, line.address, line.before, paid))
        if given < line.moves:
            deferred[line.address] = NanoUsd(line.moves - given)
    over = brought_in - sum(line.moves for line in served)
    charged, paid_out = list(charges), sorted(served, key=lambda one: one.address)
    account = treasury.on_chain
    if over < 0:
        charged.append(_line_of(treasury, account.spent, account.spent - over))
    elif over > 0:
        paid_out.append(_line_of(treasury, account.earned, account.earned + over))
    return charged, paid_out, deferred


def _line_of(treasury: Treasury, before: int, amount: int) -> Line:
    return Line(treasury.account_id, treasury.address, NanoUsd(before), NanoUsd(amount))


def _payout_line(creditor: Creditor, on_chain: Mapping[Address, ChainAccount]) -> Line | None:
    before = on_chain.get(creditor.address, NOTHING).earned
    if creditor.matured <= before:
        return None
    return Line(creditor.account_id, creditor.address, before, creditor.matured)


def _longest_waiting_first(creditor: Creditor) -> tuple[int, int, Address]:
    since = creditor.accruing_since
    return (0 if since is not None else 1, since or 0, creditor.address)


def credit_settled(credit: int, owed_after: int) -> NanoUsd:
    """Return the part of matured `credit` that an epoch settles: nobody waits for it any more.

    `owed_after` is what operators have matured and will not have been credited on the chain after the epoch.
    """
    return NanoUsd(max(0, credit - owed_after))
