"""What a node signs when its part of a job ends, and what it was offered before.

Field order and types are those of the EIP-712 struct of the same name; `eip712.py` hashes and signs them.
"""

from enum import IntEnum

import msgspec

from tallystick.protocol.ids import WireAddress, WireBytes32, WireSignature, WireU8, WireU16, WireU32, WireU63
from tallystick.protocol.money import BPS, NanoUsd, TokenCount, charge, market_fee_up


class Finish(IntEnum):
    """Why a part of a job ended."""

    EOS = 0
    STOP_STRING = 1
    LENGTH = 2
    CANCELLED = 3
    HANDED_OVER = 4


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator offered a node; two different receipts for one offer are equivocation."""

    job_id: WireBytes32
    attempt: WireU32
    prompt_commitment: WireBytes32
    parameters_hash: WireBytes32
    job_seed: WireBytes32
    first_position: WireU32
    input_price: WireU63
    output_price: WireU63


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One node's part of one job. Hashes are 32 bytes, prices nano-dollars per token, times milliseconds."""

    job_id: WireBytes32
    attempt: WireU32
    offer_hash: WireBytes32
    account: WireAddress
    node: WireAddress
    model_id: WireBytes32
    parameters_hash: WireBytes32
    job_seed: WireBytes32
    prompt_commitment: WireBytes32
    output_commitment: WireBytes32
    prompt_tokens: WireU32
    output_tokens: WireU32
    first_position: WireU32
    finish: WireU8
    text_bytes: WireU32
    sketch_root: WireBytes32
    numerics_class: WireBytes32
    input_price: WireU63
    output_price: WireU63
    fee_bps: WireU16
    started_at: WireU63
    finished_at: WireU63
    block_number: WireU63
    nonce: WireBytes32


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt and the 65-byte signature (r, s, v) of its node."""

    receipt: Receipt
    signature: WireSignature


def offer_of(receipt: Receipt) -> Offer:
    """Return the offer that the receipt says it answers; its hash must be the receipt's `offer_hash`."""
    return Offer(**{name: getattr(receipt, name) for name in Offer.__struct_fields__})


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
