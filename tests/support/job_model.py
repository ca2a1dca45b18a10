"""A market's books as they should be: its jobs, what nodes did for them, and who owes what."""

from collections import defaultdict
from dataclasses import dataclass, field

from marketplace.domain.errors import NodesFailed
from marketplace.domain.jobs import Completed, Delta
from marketplace.services.running import ReaderLeft, RunningJob
from tallystick.protocol.frames import Finished
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.receipts import Receipt
from tests.support.nodes import EOS, ScriptedNode, Work

FEE_BPS = 500


def charge_of(receipt: Receipt) -> int:
    """Return what a receipt charges."""
    return receipt.prompt_tokens * receipt.input_price + receipt.output_tokens * receipt.output_price


def fee_of(receipt: Receipt) -> int:
    """Return the market's share of it, rounded up."""
    return -(-charge_of(receipt) * FEE_BPS // 10_000)


@dataclass(eq=False)
class Try:
    """One node's try at a job. `is_lost`: it went without a word, and may bring its receipt later."""

    node: ScriptedNode
    work: Work
    has_ended: bool = False
    is_lost: bool = False


@dataclass(eq=False)
class Signed:
    """A receipt that a node signed. `is_true` if it says what was streamed and how it ended."""

    attempt: Try
    job: "ModelJob"
    finished: Finished
    id: ReceiptId
    is_true: bool

    @property
    def charge(self) -> int:
        """What it charges."""
        return charge_of(self.finished.receipt.receipt)


@dataclass(eq=False)
class ModelJob:
    """A job that was accepted. state: living, done, failed, orphaned (a crash ended it)."""

    running: RunningJob
    state: str = "living"
    tries: list[Try] = field(default_factory=list)
    parts: list[Signed] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    """Delivered by all its nodes."""
    read: list[int] = field(default_factory=list)
    completed: Completed | None = None
    error: NodesFailed | None = None
    is_final: bool = False
    """A true receipt has ended it."""
    has_left: bool = False

    @property
    def account_id(self) -> str:
        """Who pays."""
        return self.running.accepted.request.account_id

    @property
    def key_id(self) -> str:
        """The key that it was asked with."""
        return self.running.accepted.request.key_id

    @property
    def most(self) -> int:
        """How many tokens the answer may have."""
        return self.running.accepted.request.parameters.max_tokens

    @property
    def is_whole(self) -> bool:
        """Whether no further token can come."""
        return bool(self.ids) and (self.ids[-1] == EOS or len(self.ids) >= self.most)

    @property
    def live(self) -> Try | None:
        """The try that runs."""
        if self.state == "living" and self.tries and not self.tries[-1].has_ended:
            return self.tries[-1]
        return None

    @property
    def charge(self) -> int:
        """What the signed parts add up to."""
        return sum(part.charge for part in self.parts)

    async def follow(self) -> None:
        """Read the answer to its end."""
        try:
            async for event in self.running:
                if isinstance(event, Delta):
                    self.read += event.ids
                else:
                    assert self.completed is None
                    self.completed = event
        except NodesFailed as error:
            self.error = error
        except ReaderLeft:
            pass


@dataclass
class ModelBooks:
    """Amounts in nano-dollars."""

    deposits: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    caps: dict[str, int] = field(default_factory=dict)
    """By key; a revoked key has none."""
    suspended: set[str] = field(default_factory=set)
    jobs: list[ModelJob] = field(default_factory=list)

    def spent(self, account_id: str) -> int:
        """Return what the account's answers cost."""
        return sum(job.charge for job in self.jobs if job.state == "done" and job.account_id == account_id)

    def held(self, account_id: str) -> int:
        """Return what its living jobs hold."""
        living = (job for job in self.jobs if job.state == "living" and job.account_id == account_id)
        return sum(job.running.accepted.hold for job in living)

    def used(self, key_id: str) -> int:
        """Return what a key has spent and holds."""
        mine = [job for job in self.jobs if job.key_id == key_id]
        held = sum(job.running.accepted.hold for job in mine if job.state == "living")
        return held + sum(job.charge for job in mine if job.state == "done")

    def fits(self, account_id: str, key_id: str, hold: int) -> bool:
        """Say whether a job may be accepted that can cost so much."""
        free = self.deposits[account_id] - self.spent(account_id) - self.held(account_id)
        if hold > free or account_id in self.suspended:
            return False
        return not key_id or (key_id in self.caps and self.used(key_id) + hold <= self.caps[key_id])
