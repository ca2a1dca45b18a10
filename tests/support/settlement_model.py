"""What settlement should come to whatever happens on the way: a model for a state machine."""

from collections import defaultdict
from collections.abc import Sequence

from marketplace.chain.memory_ledger import MemoryLedger
from marketplace.domain.accounts import TREASURY_ID
from tests.support.by_hand import HandBooks
from tests.support.chains import address

FEE_BP = 500
IN_EPOCHS = """SELECT receipt.id, (SELECT min(number) FROM epoch WHERE last_batch >= receipt.batch)
    FROM receipt WHERE receipt.batch <= (SELECT max(last_batch) FROM epoch)"""
IN_TREES = "SELECT coalesce(sum(receipt_count), 0) FROM epoch"
MONEY = """SELECT id, spent, spent_matured, spent_settled, earned, earned_pending, earned_settled
    FROM account WHERE kind = 'wallet'"""


class SettlementModel:
    """What people did: `payers` are account ids, those of wallets their addresses; the last has no wallet."""

    def __init__(self, payers: Sequence[str], operators: Sequence[int], given: int) -> None:
        """`given` nano-dollars are on the chain before people come."""
        self.wallets = payers[:-1]
        self.operators = [address(one) for one in operators]
        self.given = given
        self.moved: list[tuple[int, int]] = []
        """What people put in and took out, with its block."""
        self.spent: dict[str, int] = defaultdict(int)
        self.earned: dict[str, int] = defaultdict(int)
        self.right: dict[str, int] = defaultdict(int)
        self.granted = 0
        self.jobs = 0
        self._epochs: dict[bytes, int] = {}
        self._roots: dict[int, bytes] = {}

    def allow(self, payer: str, right: int) -> None:
        """The payer authorized or signed for so much."""
        self.right[payer] = max(self.right[payer], right)

    def done(self, payer: str, operator: str, charges: Sequence[int]) -> None:
        """A job was done, in one part or several."""
        self.jobs += 1
        self.spent[payer] += sum(charges)
        self.earned[operator] += sum(charge - -(-charge * FEE_BP // 10_000) for charge in charges)

    def reorganised(self, height: int) -> None:
        """What happened above a block did not."""
        self.moved = [one for one in self.moved if one[0] <= height]

    def check_chain(self, state: MemoryLedger) -> None:
        """No money is made or lost, nobody gets or gives more than is due, what is closed stays."""
        there = sum(account.balance + account.earned for account in state.accounts.values())
        assert there + state.pool + state.bond == self.given + sum(amount for _, amount in self.moved)
        for payer in self.wallets:
            assert state.account(payer).spent <= min(self.spent[payer], self.right[payer])
        for operator in self.operators:
            assert state.account(operator).earned <= self.earned[operator]
        for epoch, root in state.roots.items():
            assert self._roots.setdefault(epoch, root) == root

    def check_books(self, books: HandBooks) -> None:
        """The books have what was done, each receipt in one epoch for good, and grants within the deposit."""
        for account_id, spent, matured, settled, *earned in books.query(MONEY):
            assert spent == self.spent[account_id]
            assert settled <= matured <= spent
            assert earned[0] + earned[1] == self.earned[account_id]
            assert earned[2] <= earned[0]
        placed = books.query(IN_EPOCHS)
        for receipt_id, epoch in placed:
            assert self._epochs.setdefault(receipt_id, epoch) == epoch
        assert books.query(IN_TREES) == [(len(placed),)]
        covered = books.query(f"SELECT granted <= balance FROM account WHERE id = '{TREASURY_ID}'")
        assert covered == [(1,)]

    def is_settled(self, state: MemoryLedger, books: HandBooks) -> bool:
        """Say whether the chain has charged and credited all there was, to the nano-dollar."""
        charged = all(state.account(one).spent == self.spent[one] for one in self.wallets)
        credited = all(state.account(one).earned == self.earned[one] for one in self.operators)
        unfinished = books.query("SELECT 1 FROM epoch WHERE state <> 'closed'")
        return charged and credited and not state.pool and not unfinished
