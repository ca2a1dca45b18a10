"""What every driver of a job works with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from marketplace.domain.history import History
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import ProviderLink
from marketplace.domain.receipt_checks import Tolerance
from marketplace.services.choosing import Chooser
from marketplace.services.late import LateBook
from marketplace.services.taking import Taker
from marketplace.services.till import Till


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """Times in seconds."""

    max_attempts: int = 4
    first_token: float = 60.0
    stall: float = 15.0
    cancel: float = 10.0
    """How long a cancelled node may take to sign for what it made."""
    hold_expiry: float = 900.0
    queue: float = 10.0
    """How long a job waits for a free slot before it is refused."""
    failover: float = 5.0
    """How long a job that lost its node waits for another one."""
    third_opinion: float = 0.125
    """The share of jobs in which three operators, not two, must call a request impossible."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts of dispatch, joined. `block_number` tells the chain's height, 0 if it is not known."""

    link: ProviderLink
    chooser: Chooser
    till: Till
    taker: Taker
    late: LateBook
    history: History
    clock: Clock
    block_number: Callable[[], int]
    rules: DispatchRules
    tolerance: Tolerance = field(default_factory=Tolerance)
