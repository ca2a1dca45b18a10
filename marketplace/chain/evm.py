"""Reads of a real chain."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from marketplace.chain.events import LEDGER_EVENTS, event_of
from marketplace.chain.rows import batch_call, fault_of, malformed_consent
from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.ports.chain import (
    Batch,
    ChainAccount,
    ChainBlock,
    ChainEvent,
    Exit,
    Fault,
    LedgerState,
)
from tallystick.deployment import Contracts, Deployment
from tallystick.evm import Connection, EvmError, Reverted, together
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd

BLOCKS_A_REQUEST: Final = 2_000
"""Nodes limit the range of one request for events."""
READS_AT_ONCE: Final = 32


class EvmChain:
    """Implements `Chain`. Raises ChainUnavailable, also for views that revert: the addresses are wrong."""

    def __init__(self, connection: Connection, deployment: Deployment) -> None:
        self._connection = connection
        self._contracts = Contracts.at(connection, deployment)
        self._coordinator = deployment.coordinator
        ledger, stake = self._contracts.ledger, self._contracts.stake
        self._watched = {ledger.address: ledger.artifact, stake.address: stake.artifact}
        self._topics = [ledger.artifact.topic(name) for name in LEDGER_EVENTS]
        self._topics += stake.artifact.topics()
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    async def head(self) -> ChainBlock:
        """See `Chain`."""
        head = await self.block_at("latest")
        if head is None:
            raise ChainUnavailable("The chain has no block yet.")
        return head

    async def block(self, number: int) -> ChainBlock | None:
        """See `Chain`."""
        return await self.block_at(number)

    async def block_at(self, which: int | str) -> ChainBlock | None:
        """Return a block by height or tag, or None."""
        try:
            found = await self._connection.block(which)
        except EvmError as error:
            raise unavailable(error) from error
        return None if found is None else ChainBlock(found.number, found.hash, found.timestamp)

    async def events(self, first: int, last: int) -> Sequence[ChainEvent]:
        """See `Chain`."""
        events: list[ChainEvent] = []
        for start in range(first, last + 1, BLOCKS_A_REQUEST):
            end = min(last, start + BLOCKS_A_REQUEST - 1)
            try:
                logs = await self._connection.logs(self._watched, start, end, self._topics)
            except EvmError as error:
                raise unavailable(error) from error
            read = (event_of(log, is_stake=log.contract == self._contracts.stake.address) for log in logs)
            events += (event for event in read if event is not None)
        return events

    async def accounts(self, addresses: Sequence[Address]) -> Mapping[Address, ChainAccount]:
        """See `Chain`."""
        try:
            found = await self._contracts.ledger.read_all("accountOf", addresses)
        except EvmError as error:
            raise unavailable(error) from error
        return {address: ChainAccount(*one) for address, one in zip(addresses, found, strict=True)}

    async def exit_of(self, address: Address) -> Exit:
        """See `Chain`."""
        amount, payable_at = await self._read("exitOf", address)
        return Exit(NanoUsd(amount), payable_at)

    async def ledger(self) -> LedgerState:
        """See `Chain`."""
        (epoch, chunks, pool), bond, coordinator, secret_hash = await self._read_together(
            "openEpoch", "bond", "coordinator", "auditSecretHash"
        )
        return LedgerState(epoch, chunks, NanoUsd(pool), NanoUsd(bond), coordinator, secret_hash)

    async def simulate(self, batch: Batch) -> Fault | None:
        """See `Chain`."""
        if (malformed := malformed_consent(batch)) is not None:
            return malformed
        try:
            await self._connection.call(batch_call(self._contracts.ledger, batch), sender=self._coordinator)
        except Reverted as refusal:
            return fault_of(refusal)
        except EvmError as error:
            raise unavailable(error) from error
        return None

    async def _read_together(self, *views: str) -> list[Any]:
        """Return what several views give, in one request: this is read each second."""
        ledger = self._contracts.ledger
        try:
            answers = await self._connection.call_all([ledger.prepare(view) for view in views])
        except EvmError:
            answers = []
        if not all(answers) or len(answers) != len(views):
            # A node that takes one call at a time; one that is down, or has no Ledger, says so here.
            return await together([self._read(view) for view in views])
        return [
            ledger.artifact.function(view).unpack_outputs(answer)
            for view, answer in zip(views, answers, strict=True)
        ]

    async def _read(self, view: str, *arguments: Any) -> Any:
        try:
            async with self._reads:
                return await self._contracts.ledger.read(view, *arguments)
        except EvmError as error:
            raise unavailable(error) from error


def unavailable(error: EvmError) -> ChainUnavailable:
    """Return the market's word for what the chain's node did."""
    return ChainUnavailable(f"The chain does not answer: {error.text}")
