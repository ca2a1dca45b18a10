"""The ledger's books as they should be."""

from collections import defaultdict
from dataclasses import dataclass, field

from marketplace.domain.jobs import AcceptedJob


@dataclass
class Model:
    """One account as it should be."""

    balance: int = 0
    held: int = 0
    requested: int = 0
    granted: int = 0
    spent: int = 0
    spent_matured: int = 0
    spent_settled: int = 0
    authorized: int = 0
    consented: int = 0
    earned_pending: int = 0
    earned: int = 0
    earned_settled: int = 0


WHOLE_MODEL = f"SELECT id, {', '.join(vars(Model()))} FROM account"


@dataclass
class OpenJob:
    """A job whose hold is open."""

    job: AcceptedJob
    expires_at: int


@dataclass
class Unripe:
    """A receipt that has not matured."""

    matures_at: int
    payer: str
    operator: str
    charge: int
    fee: int


@dataclass
class Books:
    """The model: accounts, caps, what is open."""

    accounts: dict[str, Model] = field(default_factory=lambda: defaultdict(Model))
    caps: dict[str, int] = field(default_factory=dict)
    key_used: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    held: list[OpenJob] = field(default_factory=list)
    unripe: list[Unripe] = field(default_factory=list)
