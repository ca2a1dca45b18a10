"""What the machines in virtual time have in common: new books, a loop of their own, and no logs."""

from hypothesis.stateful import RuleBasedStateMachine

from tests.support.by_hand import HandBooks, HandLoop
from tests.support.machines import place, quietly


class HandMachine(RuleBasedStateMachine):
    """Begins with new books in `place()`; its teardown calls `put_away`."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = quietly()
        self.quiet.__enter__()
        place().renew()
        self.loop = HandLoop()

    def put_away(self, books: HandBooks) -> None:
        """End what runs, and close the books."""
        self.loop.end()
        books.die()
        self.loop.close()
        self.quiet.__exit__(None, None, None)
