"""Receipts as JSON objects, for people and for clients in any language.

Hashes are `0x…`; prices are strings, since JSON numbers lose digits over 2^53; the rest are plain integers.
"""

from typing import Any

import msgspec

from tallystick.protocol.ids import to_address, to_bytes32, to_hex
from tallystick.protocol.receipts import Receipt, SignedReceipt

_HASHES = (
    "job_id",
    "offer_hash",
    "model_id",
    "parameters_hash",
    "job_seed",
    "prompt_commitment",
    "output_commitment",
    "sketch_root",
    "numerics_class",
    "nonce",
)
_ADDRESSES = ("account", "node")
_PRICES = ("input_price", "output_price")
_NUMBERS = (
    "attempt",
    "prompt_tokens",
    "output_tokens",
    "first_position",
    "finish",
    "text_bytes",
    "fee_bps",
    "started_at",
    "finished_at",
    "block_number",
)


class BadRendering(ValueError):
    """A JSON object that is not a rendered receipt."""


def receipt_to_json(signed: SignedReceipt) -> dict[str, Any]:
    """Return `{"receipt": {…}, "signature": "0x…"}` for a signed receipt."""
    receipt = signed.receipt
    fields: dict[str, Any] = {name: to_hex(getattr(receipt, name)) for name in _HASHES}
    fields |= {name: getattr(receipt, name) for name in (*_ADDRESSES, *_NUMBERS)}
    fields |= {name: str(getattr(receipt, name)) for name in _PRICES}
    return {
        "receipt": {name: fields[name] for name in Receipt.__struct_fields__},
        "signature": to_hex(signed.signature),
    }


def receipt_from_json(rendered: dict[str, Any]) -> SignedReceipt:
    """Return the signed receipt behind its rendering.

    Raises BadRendering for a missing or malformed field.
    """
    try:
        given = rendered["receipt"]
        fields: dict[str, Any] = {name: to_bytes32(given[name]) for name in _HASHES}
        fields |= {name: to_address(given[name]) for name in _ADDRESSES}
        fields |= {name: given[name] for name in _NUMBERS}
        fields |= {name: _decimal(given[name]) for name in _PRICES}
        signed = {"receipt": fields, "signature": bytes.fromhex(rendered["signature"].removeprefix("0x"))}
        return msgspec.convert(signed, SignedReceipt, builtin_types=(bytes,))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRendering(f"not a rendered receipt: {error!r}") from error


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"not a decimal number: {text!r}")
    return int(text)
