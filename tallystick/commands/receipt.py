"""`tallystick receipt verify`: one charge, checked from the node's signature to the root on the chain."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tallystick.commands.checks import Check, document, signer_of, table
from tallystick.commands.console import AsJson, foreseen, show
from tallystick.commands.market import Api, MarketInfo, OnChain, on_chain
from tallystick.evm import EvmError
from tallystick.protocol.eip712 import offer_hash, receipt_digest, taken_digest
from tallystick.protocol.ids import ReceiptId, to_bytes32, to_hex
from tallystick.protocol.merkle import Proof
from tallystick.protocol.merkle import verify as verify_proof
from tallystick.protocol.money import format_usd
from tallystick.protocol.receipts import SignedReceipt, offer_of, receipt_charge, receipt_fee_up
from tallystick.protocol.rendering import BadRendering, receipt_from_json
from tallystick.sdk.answers import TallystickError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Check a receipt yourself.")


@app.callback()
def main() -> None:
    """Check a receipt by yourself."""


@app.command("verify")
@foreseen(TallystickError, EvmError, BadRendering, ValueError)
def verify(
    receipt: Annotated[str, typer.Argument(help="A receipt's id, or a file with its JSON.")],
    as_json: AsJson = False,
) -> None:
    """Check a receipt, from the node's signature to the epoch's root on the chain.

    Looks at signature, offer, charge, the node's stake, the coordinator's word, and the receipt's place under
    the root. Exit code 0 if nothing failed.

    Example: tallystick receipt verify 0x…
    """
    api = Api()
    path = Path(receipt)
    rendered = json.loads(path.read_text()) if path.is_file() else api.call("GET", f"/receipts/{receipt}")
    wanted = None if path.is_file() else receipt
    checks = asyncio.run(_checks(rendered, wanted, api.market()))
    show(document(checks), as_json, table)
    if any(check.held is False for check in checks):
        raise typer.Exit(1)


async def _checks(rendered: dict[str, Any], wanted: str | None, market: MarketInfo) -> list[Check]:
    signed = receipt_from_json(rendered)
    receipt_id = receipt_digest(market.domain, signed.receipt)
    found = [*check_offline(signed, receipt_id, market, rendered)]
    if wanted is not None:
        found.insert(
            0,
            Check(
                "id", to_hex(receipt_id) == wanted, f"the receipt's EIP-712 digest is {to_hex(receipt_id)}"
            ),
        )
    async with on_chain(market) as chain:
        found = [await _second_look(check, receipt_id, rendered, market, chain) for check in found]
        found.append(await _check_stake(signed, chain))
        found.append(await _check_inclusion(receipt_id, rendered.get("inclusion"), chain))
    return found


def check_offline(
    signed: SignedReceipt, receipt_id: ReceiptId, market: MarketInfo, rendered: dict[str, Any]
) -> list[Check]:
    """Return what can be checked without a chain: signature, offer, charge, and the coordinator's `Taken`."""
    receipt = signed.receipt
    signer = signer_of(receipt_id, signed.signature)
    charge, fee = receipt_charge(receipt), receipt_fee_up(receipt)
    arithmetic = (
        f"{receipt.prompt_tokens} × {receipt.input_price} + {receipt.output_tokens} × "
        f"{receipt.output_price} = {charge} nano-dollars (${format_usd(charge)}), the market's share {fee}"
    )
    stated = rendered.get("charge_nano_usd")
    checks = [
        Check("signature", signer == receipt.node, f"signed by {signer}, names node {receipt.node}"),
        Check(
            "offer",
            receipt.offer_hash == offer_hash(offer_of(receipt)),
            "its hash covers job, prompt, seed and prices",
        ),
        Check("charge", stated is None or int(stated) == charge, arithmetic),
    ]
    if taken := rendered.get("taken"):
        checks.append(
            Check(
                "taken",
                _taken_by(receipt_id, taken, market) == market.coordinator,
                f"the coordinator signed to settle it by epoch {taken['epoch']}",
            )
        )
    return checks


async def _second_look(
    check: Check, receipt_id: ReceiptId, rendered: dict[str, Any], market: MarketInfo, chain: OnChain
) -> Check:
    """Return a failed `taken` as held if its signer was the coordinator then, by the Ledger's word."""
    if check.what != "taken" or check.held:
        return check
    epoch = int(rendered["taken"]["epoch"])
    who = _taken_by(receipt_id, rendered["taken"], market)
    held = epoch < await chain.ledger.read("signsBefore", who)
    return Check("taken", held, f"{who}, a coordinator before, signed to settle it by epoch {epoch}")


def _taken_by(receipt_id: ReceiptId, taken: dict[str, Any], market: MarketInfo) -> str:
    digest = taken_digest(market.domain, receipt_id, int(taken["epoch"]))
    return signer_of(digest, bytes.fromhex(taken["signature"].removeprefix("0x")))


async def _check_stake(signed: SignedReceipt, chain: OnChain) -> Check:
    operator, status = await chain.stake.read("operatorOf", signed.receipt.node)
    active, leaving, _ = await chain.stake.read("stakeOf", operator)
    names = {0: "unknown", 1: "active", 2: "removed", 3: "ended"}
    detail = f"node is {names[status]}, its operator {operator} stakes ${format_usd(active + leaving)}"
    return Check("stake", status != 0, detail)


async def _check_inclusion(receipt_id: ReceiptId, inclusion: dict[str, Any] | None, chain: OnChain) -> Check:
    if inclusion is None:
        return Check("inclusion", None, "not settled yet; ask again after the epoch")
    proof = Proof(
        count=int(inclusion["count"]),
        index=int(inclusion["index"]),
        siblings=tuple(to_bytes32(one) for one in inclusion["siblings"]),
    )
    epoch = int(inclusion["epoch"])
    closed, root = await chain.ledger.read("epochOf", epoch)
    held = bool(closed) and verify_proof(root, receipt_id, proof)
    place = f"leaf {proof.index} of {proof.count} under {to_hex(root)}"
    return Check("inclusion", held, f"{place}, the root that the Ledger has for epoch {epoch}")
