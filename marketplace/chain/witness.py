"""The past of a real chain."""

from collections.abc import Mapping
from typing import Final

from marketplace.chain.evm import BLOCKS_A_REQUEST, unavailable
from marketplace.domain.ports.chain import Place
from marketplace.domain.ports.witness import ClosedEpoch
from tallystick.deployment import Contracts, Deployment
from tallystick.evm import Connection, EvmError
from tallystick.protocol.ids import Address

_CLOSED: Final = "EpochClosed"


class EvmWitness:
    """Implements `Witness`. Raises ChainUnavailable."""

    def __init__(self, connection: Connection, deployment: Deployment) -> None:
        self._connection = connection
        self._ledger = Contracts.at(connection, deployment).ledger

    async def closed_epochs(self, first_block: int, last_block: int) -> Mapping[int, ClosedEpoch]:
        """See `Witness`."""
        watched, topic = {self._ledger.address: self._ledger.artifact}, self._ledger.artifact.topic(_CLOSED)
        found = {}
        for first in range(first_block, last_block + 1, BLOCKS_A_REQUEST):
            last = min(last_block, first + BLOCKS_A_REQUEST - 1)
            try:
                logs = await self._connection.logs(watched, first, last, [topic])
            except EvmError as error:
                raise unavailable(error) from error
            for log in logs:
                said = log.fields
                found[said["epoch"]] = ClosedEpoch(
                    said["receiptsRoot"],
                    said["receiptCount"],
                    said["fileHash"],
                    said["auditSecret"],
                    said["nextAuditSecretHash"],
                    Place(log.transaction, log.index, log.block_number, log.block_hash),
                )
        return found

    async def was_coordinator(self, key: Address) -> bool:
        """See `Witness`."""
        try:
            return bool(await self._ledger.read("signsBefore", key))
        except EvmError as error:
            raise unavailable(error) from error
