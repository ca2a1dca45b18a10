"""One sender per key: every transaction of a key goes through its one Wallet, one after the other."""

import asyncio
from dataclasses import dataclass
from typing import Final

from tallystick.evm.connection import Call, Connection, Mined
from tallystick.evm.errors import Reverted, TransactionStuck
from tallystick.evm.transactions import Fees, SignedTransaction, sign_transaction
from tallystick.protocol.keys import SigningKey

_POLL_S: Final = 0.1
_POLL_MOST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call costs at most to send, in gas and in wei."""

    gas: int
    fees: Fees

    @property
    def wei(self) -> int:
        """The most that it costs, in wei."""
        return self.gas * self.fees.max_fee


class Wallet:
    """A key's sender. Two of them on one key collide; share the one."""

    def __init__(self, connection: Connection, key: SigningKey) -> None:
        self.connection = connection
        self.address = key.address
        self._key = key
        self._lock = asyncio.Lock()

    async def cost(self, call: Call) -> Cost:
        """Return what sending `call` costs at most, having simulated it. Raises Reverted, NodeUnreachable."""
        gas = await self.connection.estimate_gas(call, self.address)
        # State moves between the estimate and the block; unused gas is not paid for.
        return Cost(gas + gas // 5, await self.connection.fees())

    async def simulate(self, call: Call) -> bytes:
        """Return what `call` would give if it was sent now. Raises Reverted, NodeUnreachable."""
        return await self.connection.call(call, sender=self.address)

    def sign(self, call: Call, cost: Cost, nonce: int) -> SignedTransaction:
        """Return the transaction, signed and not sent."""
        return sign_transaction(
            self._key,
            chain_id=self.connection.chain_id,
            nonce=nonce,
            gas=cost.gas,
            fees=cost.fees,
            to=call.to,
            data=call.data,
            value=call.value,
        )

    async def send(self, call: Call, *, timeout_s: float = 120) -> Mined:
        """Simulate `call`, send it and wait until it is mined.

        Raises Reverted if it would or did fail, TransactionStuck if it is not mined in time, NodeUnreachable.
        """
        async with self._lock:
            cost = await self.cost(call)
            signed = self.sign(call, cost, await self.connection.nonce(self.address))
            await self.connection.broadcast(signed.raw)
            mined = await wait_mined(self.connection, signed.hash, timeout_s=timeout_s)
        if not mined.succeeded:
            raise await self._reason(call, mined)
        return mined

    async def _reason(self, call: Call, mined: Mined) -> Reverted:
        try:
            await self.connection.call(call, sender=self.address, at=mined.block_number)
        except Reverted as reason:
            return reason
        return Reverted("Error", {"message": f"transaction 0x{mined.transaction.hex()} failed in its block"})


async def wait_mined(connection: Connection, transaction: bytes, *, timeout_s: float) -> Mined:
    """Return where `transaction` was mined. Raises TransactionStuck after `timeout_s`, NodeUnreachable."""
    clock = asyncio.get_running_loop().time
    start, pause = clock(), _POLL_S
    while (mined := await connection.mined(transaction)) is None:
        if clock() - start > timeout_s:
            raise TransactionStuck(transaction, timeout_s)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _POLL_MOST_S)
    return mined
