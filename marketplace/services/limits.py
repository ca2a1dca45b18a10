"""Rate limits: a bucket per key and per address, in this process's memory.

They protect the coordinator, not money: holds do that, exactly and in the database.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from marketplace.domain.errors import TooFast
from marketplace.domain.places import network_of

MOST_BUCKETS: Final = 100_000
LOOK_UPS: Final = 10
"""Keys that an address may have looked for, for each request without one. Many with good keys may be behind
it, who must not be kept out by one that tries keys."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` requests at once, refilled at `per_minute`; a rate of 0 means no limit."""

    per_minute: float
    burst: int


@dataclass(frozen=True, slots=True)
class LimitRules:
    """What a key may do, an address without a key, and how many accounts an address may open."""

    key: Rate
    address: Rate
    sign_up: Rate


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left after a request: `remaining` of `limit`, all of it again in `reset_seconds`."""

    limit: int
    remaining: int
    reset_seconds: float


UNLIMITED: Final = Standing(0, 0, 0.0)


class Limits:
    """Says yes or no to requests; `now` is a monotonic clock in seconds."""

    def __init__(self, rules: LimitRules, now: Callable[[], float] = monotonic) -> None:
        self._key = _Buckets(rules.key, "with this key", now)
        self._address = _Buckets(rules.address, "from this address", now)
        looked_up = Rate(rules.address.per_minute * LOOK_UPS, rules.address.burst * LOOK_UPS)
        self._look_up = _Buckets(looked_up, "with keys that are not known, from this address", now)
        self._sign_up = _Buckets(rules.sign_up, "to open an account from this address", now)

    def check_key(self, key_id: str) -> Standing:
        """Count a request with a key (or a session). Raises TooFast."""
        return self._key.take(key_id)

    def check_address(self, address: str) -> Standing:
        """Count a request without a key. Raises TooFast."""
        return self._address.take(network_of(address))

    def check_look_up(self, address: str) -> None:
        """Count a key or session that has to be looked for in the books. Raises TooFast."""
        self._look_up.take(network_of(address))

    def look_up_found(self, address: str) -> None:
        """It was there, and does not count."""
        self._look_up.put_back(network_of(address))

    def check_sign_up(self, address: str) -> Standing:
        """Count a sign-up. Raises TooFast."""
        return self._sign_up.take(network_of(address))


class MailLimits:
    """How many mails may be sent to one mailbox, whoever asks for them; `now` is a clock in seconds."""

    def __init__(self, per_hour: int, per_day: int, now: Callable[[], float] = monotonic) -> None:
        """0: no limit."""
        said = " and ".join(
            f"{most} {span}" for most, span in ((per_hour, "an hour"), (per_day, "a day")) if most
        )
        what = f"for mails to this address, which gets at most {said}"
        self._buckets = [
            _Buckets(Rate(per_hour / 60, per_hour), what, now),
            _Buckets(Rate(per_day / (24 * 60), per_day), what, now),
        ]

    def check(self, address: str) -> None:
        """Count a mail to an address, whether or not anybody has an account with it. Raises TooFast."""
        for buckets in self._buckets:
            buckets.take(mailbox_of(address))


def mailbox_of(address: str) -> str:
    """Return the mailbox that mails to an address end up in: `name+anything@host` is `name@host`."""
    name, _, host = address.partition("@")
    return f"{name.partition('+')[0]}@{host}"


class _Buckets:
    """Levels and when they were true, the least recently used first."""

    def __init__(self, rate: Rate, what: str, now: Callable[[], float]) -> None:
        self._per_second = rate.per_minute / 60
        self._burst = max(1, rate.burst)
        self._what = what
        self._now = now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> Standing:
        if self._per_second <= 0:
            return UNLIMITED
        now = self._now()
        level, at = self._levels.get(name, (float(self._burst), now))
        level = min(self._burst, level + (now - at) * self._per_second)
        if level < 1:
            wait = math.ceil((1 - level) / self._per_second)
            raise TooFast(f"Too many requests {self._what}; try again in {wait} s.", retry_after=wait)
        self._levels[name] = (level - 1, now)
        self._levels.move_to_end(name)
        if len(self._levels) > MOST_BUCKETS:
            self._levels.popitem(last=False)
        return Standing(self._burst, int(level - 1), (self._burst - level + 1) / self._per_second)

    def put_back(self, name: str) -> None:
        if name in self._levels:
            level, at = self._levels[name]
            self._levels[name] = (min(self._burst, level + 1), at)
