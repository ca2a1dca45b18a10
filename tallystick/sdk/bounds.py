"""The most that one answer can have cost, from what its client knows itself.

Receipts are signed by nodes that a client cannot look up, and prices are the coordinator's word: one that was
broken into makes up both. What it cannot make up is what was asked: how long, at which prices, for how much.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from tallystick.consents import ReceiptRejected
from tallystick.protocol.money import NanoUsd, format_price, format_usd, parse_price
from tallystick.protocol.receipts import SignedReceipt, receipt_charge

TEMPLATE_TOKENS: Final = 2_048
TOKENS_A_BYTE: Final = 2
"""A chat template adds words of its own: a system prompt, roles. A token of a prompt is a byte at least."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the parts of one answer may add up to; None where the request set no bound.

    Prices in nano-dollars per token.
    """

    prompt_tokens: int
    output_tokens: int | None
    input_price: NanoUsd | None
    output_price: NanoUsd | None
    charge: NanoUsd

    @classmethod
    def of(cls, body: Mapping[str, Any], most: NanoUsd) -> Self:
        """Return the bounds of a request's body; `most` is what the client signs for in one answer.

        Raises ValueError for a price that is none.
        """
        newer = body.get("max_completion_tokens")
        prices = body.get("tallystick") or {}
        return cls(
            prompt_tokens=TEMPLATE_TOKENS + TOKENS_A_BYTE * len(json.dumps(body["messages"]).encode()),
            output_tokens=body.get("max_tokens") if newer is None else newer,
            input_price=_price(prices.get("max_input_price")),
            output_price=_price(prices.get("max_output_price")),
            charge=most,
        )

    def check(self, receipts: Sequence[SignedReceipt]) -> None:
        """Raise ReceiptRejected, with the numbers, if the parts of an answer are more than was asked for."""
        parts = [signed.receipt for signed in receipts]
        _at_most("tokens of output", sum(one.output_tokens for one in parts), self.output_tokens)
        _at_most("tokens of prompt", sum(one.prompt_tokens for one in parts), self.prompt_tokens)
        for one in parts:
            _no_dearer("input", NanoUsd(one.input_price), self.input_price)
            _no_dearer("output", NanoUsd(one.output_price), self.output_price)
        charge = NanoUsd(sum(receipt_charge(one) for one in parts))
        if charge > self.charge:
            raise ReceiptRejected(
                f"the answer costs ${format_usd(charge)}; this client signs for at most "
                f"${format_usd(self.charge)} an answer (max_charge_usd)"
            )


def _price(text: str | None) -> NanoUsd | None:
    return None if text is None else parse_price(text)


def _at_most(what: str, billed: int, asked: int | None) -> None:
    if asked is not None and billed > asked:
        raise ReceiptRejected(f"{billed} {what} are billed; the request cannot have had more than {asked}")


def _no_dearer(what: str, price: NanoUsd, limit: NanoUsd | None) -> None:
    if limit is not None and price > limit:
        raise ReceiptRejected(
            f"{what} is billed at ${format_price(price)} a million tokens; the request allowed "
            f"${format_price(limit)}"
        )
