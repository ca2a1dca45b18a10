"""How much the treasury pays an operator for parts of answers that nobody completed.

Such a part costs its consumer nothing, so whoever is both consumer and node could ask itself, hand over, let
the job fail, and be paid by the treasury for ever. The budget makes that worth next to nothing, and leaves
honest operators, whose unfinished answers are few, untouched. It is kept in memory; after a restart all that
the books say was paid in the last day counts as used, so no restart gives anybody more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from marketplace.domain.ports.clock import Clock
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NANO_PER_USD, NanoUsd

DAY_MS = 86_400_000
DEFAULT_DAILY = NanoUsd(NANO_PER_USD)
SPENT = "the treasury's budget for this operator's unfinished answers is used up; it fills within a day"


@dataclass(slots=True)
class _Account:
    used: int
    """In nano-dollars times the milliseconds of a day, so that it shrinks without rounding."""
    at_ms: int


class Goodwill:
    """A budget for each operator that fills evenly over a day."""

    def __init__(self, clock: Clock, daily: NanoUsd = DEFAULT_DAILY) -> None:
        self._clock = clock
        self._daily = daily
        self._accounts: dict[Address, _Account] = {}

    def spend(self, operator: Address, amount: NanoUsd) -> bool:
        """Take `amount` out of the operator's budget; False, and nothing taken, if it is not there."""
        account = self._filled(operator, self._clock.now_ms())
        if account.used + amount * DAY_MS > self._daily * DAY_MS:
            return False
        account.used += amount * DAY_MS
        return True

    def refund(self, operator: Address, amount: NanoUsd) -> None:
        """Put back what was spent for a part that was not paid then: the books did not take its receipt.

        Otherwise the budget would go for nothing, and parts that are owed would be turned away.
        """
        account = self._filled(operator, self._clock.now_ms())
        account.used = max(0, account.used - amount * DAY_MS)

    def restore(self, paid: Iterable[tuple[Address, NanoUsd]]) -> None:
        """Take what each operator was paid in the last day."""
        now = self._clock.now_ms()
        for operator, amount in paid:
            self._filled(operator, now).used += min(amount, self._daily) * DAY_MS

    def _filled(self, operator: Address, now: int) -> _Account:
        """Return the operator's budget as it has filled up by `now` (ms).

        A wall clock may step back; no time has passed then, and nothing is used up by it.
        """
        account = self._accounts.setdefault(operator, _Account(0, now))
        passed = max(0, now - account.at_ms)
        account.used = max(0, account.used - self._daily * passed)
        account.at_ms = now
        return account
