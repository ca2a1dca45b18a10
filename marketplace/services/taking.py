"""Taking a receipt: the coordinator's signature that it has it, and by which epoch it will be settled."""

from collections.abc import Callable
from dataclasses import dataclass

from marketplace.domain.receipts import TakenReceipt
from tallystick.protocol.eip712 import Domain, taken_digest
from tallystick.protocol.frames import ReceiptTaken
from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.receipts import SignedReceipt

PromisedEpoch = Callable[[int], int]
"""Return the epoch by whose closing what matures at a time (milliseconds) is settled, at the latest."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Signs for receipts with the coordinator's key."""

    domain: Domain
    key: SigningKey
    maturity_lag_ms: int
    promised_epoch: PromisedEpoch

    def take(
        self, signed: SignedReceipt, receipt_id: ReceiptId, operator: Address, now_ms: int
    ) -> TakenReceipt:
        """Return a checked receipt with the signature `Taken`; it counts once it is in the books."""
        matures_at = now_ms + self.maturity_lag_ms
        epoch = self.promised_epoch(matures_at)
        return TakenReceipt(
            signed=signed,
            id=receipt_id,
            operator=operator,
            taken_epoch=epoch,
            taken_signature=self.key.sign_digest(taken_digest(self.domain, receipt_id, epoch)),
            matures_at=matures_at,
        )

    def again(self, known: ReceiptTaken) -> ReceiptTaken:
        """Return the word on a receipt that was taken before, perhaps under another key, under this one."""
        digest = taken_digest(self.domain, ReceiptId(known.receipt_id), known.epoch)
        return ReceiptTaken(
            receipt_id=known.receipt_id, epoch=known.epoch, signature=self.key.sign_digest(digest)
        )


def notice(taken: TakenReceipt) -> ReceiptTaken:
    """Return what the node is told once the receipt is in the books."""
    return ReceiptTaken(receipt_id=taken.id, epoch=taken.taken_epoch, signature=taken.taken_signature)
