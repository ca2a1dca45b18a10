"""A receipt that the coordinator has taken, on its way into the books."""

from dataclasses import dataclass

from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.receipts import SignedReceipt


@dataclass(frozen=True, slots=True)
class TakenReceipt:
    """A checked receipt, the operator it pays, and the coordinator's signature `Taken(id, taken_epoch)`.

    `matures_at` is in milliseconds.
    """

    signed: SignedReceipt
    id: ReceiptId
    operator: Address
    taken_epoch: int
    taken_signature: bytes
    matures_at: int
