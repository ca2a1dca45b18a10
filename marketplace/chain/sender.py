"""The coordinator's key on a real chain."""

from marketplace.chain.evm import unavailable
from marketplace.chain.rows import batch_call, fault_of, malformed_consent
from marketplace.domain.ports.chain import Batch, BatchRefused, Outcome, Signed
from tallystick.deployment import Contracts, Deployment
from tallystick.evm import Call, Connection, Cost, EvmError, NodeUnreachable, Reverted, Wallet
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

_HARMLESS = (
    "nonce too low",
    "already known",
    "already imported",
    "underpriced",
    "less than block base fee",
)
"""What a node says about a transaction that it has, that is mined, or that bids too little since gas became
dear: its outcome tells more, and one that waits for long bids more."""


class EvmSender:
    """Implements `Sender`. Raises ChainUnavailable."""

    def __init__(self, connection: Connection, deployment: Deployment, key: SigningKey) -> None:
        self._connection = connection
        self._ledger = Contracts.at(connection, deployment).ledger
        self._wallet = Wallet(connection, key)

    @property
    def address(self) -> Address:
        """The key's address."""
        return self._wallet.address

    async def next_nonce(self) -> int:
        """See `Sender`."""
        try:
            return await self._connection.nonce(self.address, "pending")
        except EvmError as error:
            raise unavailable(error) from error

    async def used_nonces(self) -> int:
        """See `Sender`."""
        try:
            return await self._connection.nonce(self.address, "latest")
        except EvmError as error:
            raise unavailable(error) from error

    async def sign(self, batch: Batch, nonce: int, *, urgency: int = 0) -> Signed:
        """See `Sender`."""
        if (malformed := malformed_consent(batch)) is not None:
            raise BatchRefused(malformed)
        call = batch_call(self._ledger, batch)
        try:
            cost = await self._wallet.cost(call)
        except Reverted as refusal:
            raise BatchRefused(fault_of(refusal)) from refusal
        except EvmError as error:
            raise unavailable(error) from error
        fees = cost.fees
        for _ in range(urgency):
            fees = fees.bumped()
        signed = self._wallet.sign(call, Cost(cost.gas, fees), nonce)
        return Signed(signed.raw, signed.hash, signed.nonce)

    async def broadcast(self, raw: bytes) -> None:
        """See `Sender`."""
        try:
            await self._connection.broadcast(raw)
        except Reverted:
            # Some nodes run a transaction before they take it; what it does is for `outcome` to tell.
            return
        except NodeUnreachable as error:
            if not any(known in error.text.lower() for known in _HARMLESS):
                raise unavailable(error) from error

    async def skip(self, nonce: int) -> None:
        """See `Sender`: an empty transfer of the key to itself."""
        call = Call(self.address, b"")
        try:
            signed = self._wallet.sign(call, await self._wallet.cost(call), nonce)
        except EvmError as error:
            raise unavailable(error) from error
        await self.broadcast(signed.raw)

    async def outcome(self, transaction: bytes) -> Outcome | None:
        """See `Sender`."""
        try:
            mined = await self._connection.mined(transaction)
        except EvmError as error:
            raise unavailable(error) from error
        return None if mined is None else Outcome(mined.block_number, mined.gas_used, mined.succeeded)
