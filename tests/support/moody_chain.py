"""The chain's twin with moods: it stops answering, or takes a transaction and does not say so."""

from collections.abc import Mapping, Sequence

from marketplace.chain.memory import MemoryChain
from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.ports.chain import (
    Batch,
    ChainAccount,
    ChainBlock,
    ChainEvent,
    Fault,
    LedgerState,
    Outcome,
)
from tallystick.protocol.ids import Address


class MoodyChain(MemoryChain):
    """Answers `patience` more questions, then none until it is None again."""

    patience: int | None = None

    def lose_waiting(self) -> None:
        """Forget the transactions that were broadcast and are not mined."""
        self._waiting.clear()

    def _answer(self) -> None:
        if self.patience is None:
            return
        if self.patience == 0:
            raise ChainUnavailable("the chain does not answer")
        self.patience -= 1

    async def head(self) -> ChainBlock:
        self._answer()
        return await super().head()

    async def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        self._answer()
        return await super().events(first, last)

    async def accounts(self, addresses: Sequence[Address]) -> Mapping[Address, ChainAccount]:
        self._answer()
        return await super().accounts(addresses)

    async def ledger(self) -> LedgerState:
        self._answer()
        return await super().ledger()

    async def simulate(self, batch: Batch) -> Fault | None:
        self._answer()
        return await super().simulate(batch)

    async def outcome(self, transaction: bytes) -> Outcome | None:
        self._answer()
        return await super().outcome(transaction)

    async def broadcast(self, raw: bytes) -> None:
        await super().broadcast(raw)
        self._answer()
