"""What a node signs when its part of a job ends, and what it was offered before.

Field order and types are those of the EIP-712 struct of the same name; `eip712.py` hashes and signs them.
"""

from enum import IntEnum

import msgspec

from tallystick.protocol.ids import Address
from tallystick.protocol.money import BPS, NanoUsd, TokenCount, charge, market_fee_up


class Finish(IntEnum):
    """Why a part of a job ended."""

    EOS = 0
    STOP_STRING = 1
    LENGTH = 2
    CANCELLED = 3
    HANDED_OVER = 4


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator offered a node; two receipts for one offer with different results are equivocation."""

    job_id: bytes
    attempt: int
    prompt_commitment: bytes
    parameters_hash: bytes
    job_seed: bytes
    first_position: int
    input_price: int
    output_price: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One node's part of one job. Hashes are 32 bytes, prices nano-dollars per token, times milliseconds."""

    job_id: bytes
    attempt: int
    offer_hash: bytes
    account: Address
    node: Address
    model_id: bytes
    parameters_hash: bytes
    job_seed: bytes
    prompt_commitment: bytes
    output_commitment: bytes
    prompt_tokens: int
    output_tokens: int
    first_position: int
    finish: int
    text_bytes: int
    sketch_root: bytes
    numerics_class: bytes
    input_price: int
    output_price: int
    fee_bps: int
    started_at: int
    finished_at: int
    block_number: int
    nonce: bytes


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt and the 65-byte signature (r, s, v) of its node."""

    receipt: Receipt
    signature: bytes


def receipt_charge(receipt: Receipt) -> NanoUsd:
    """Return what the consumer owes for this receipt: tokens × price, in and out, exact."""
    given = charge(TokenCount(receipt.prompt_tokens), NanoUsd(receipt.input_price))
    made = charge(TokenCount(receipt.output_tokens), NanoUsd(receipt.output_price))
    return NanoUsd(given + made)


def receipt_fee_up(receipt: Receipt) -> NanoUsd:
    """Return the market's share of the receipt's charge, rounded up."""
    check_fee(receipt.fee_bps)
    return market_fee_up(receipt_charge(receipt), receipt.fee_bps)


def receipt_earning(receipt: Receipt) -> NanoUsd:
    """Return what the node's operator earns: the charge less the market's share."""
    return NanoUsd(receipt_charge(receipt) - receipt_fee_up(receipt))


def check_fee(fee_bps: int) -> None:
    """Raise ValueError unless `fee_bps` is between 0 and 100 %."""
    if not 0 <= fee_bps <= BPS:
        raise ValueError(f"a fee of {fee_bps} basis points is not between 0 and {BPS}")
