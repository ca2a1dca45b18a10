"""What `epoch verify` looks at: everything that the file says is held against the chain."""

from collections.abc import Sequence
from mmap import mmap
from typing import Final, NamedTuple

from tallystick.commands.checks import Check, signer_of
from tallystick.commands.market import MarketInfo, OnChain
from tallystick.evm import EvmError, Log
from tallystick.protocol.eip712 import consent_digest, offer_hash
from tallystick.protocol.epochfile import BadEpochFile, ConsentSignature, EpochFile, decode_epoch, epoch_hash
from tallystick.protocol.ids import Address, to_hex
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.merkle import root_of
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.protocol.receipts import offer_of
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row

BLOCKS_PER_LOOK: Final = 2_000
"""Public nodes refuse to search more at once."""
MOST_LOOKS: Final = 500
_S_MASK: Final = 2**255 - 1


class _Account(NamedTuple):
    balance: int
    spent: int
    authorized: int
    earned: int


async def check_epoch(epoch: int, data: bytes | mmap, market: MarketInfo, chain: OnChain) -> list[Check]:
    """Return what holds of an epoch's file and what does not. Raises EvmError."""
    closed, root = await chain.ledger.read("epochOf", epoch)
    if not closed:
        return [Check("closed", False, f"the Ledger has not closed epoch {epoch}, or nothing was due in it")]
    logs = await _logs_of(epoch, chain)
    checks = [_check_hash(data, logs)]
    try:
        file = decode_epoch(data)
    except BadEpochFile as error:
        return [*checks, Check("file", False, f"it cannot be read: {error}")]
    rows = file.rows
    place = (rows.chain_id, rows.ledger, rows.epoch)
    checks.append(
        Check(
            "place",
            place == (market.chain_id, market.ledger, epoch),
            f"it says chain {rows.chain_id}, Ledger {rows.ledger}, epoch {rows.epoch}",
        )
    )
    found = root_of(file.receipt_ids)
    checks.append(
        Check(
            "root",
            found == root,
            f"its receipts ({len(file.receipt_ids)}) give {to_hex(found)}, the chain has {to_hex(root)}",
        )
    )
    checks.append(check_receipts(file))
    checks.append(await _check_rights(file, logs, chain))
    checks.append(await _check_recorded(file, chain))
    checks.append(await _check_balance(file, logs, chain))
    return checks


def check_receipts(file: EpochFile) -> Check:
    """Say whether each receipt is signed by the node that it names, for the offer that it names."""
    wrong = []
    for receipt_id, one in zip(file.receipt_ids, file.receipts(), strict=True):
        receipt = one.signed.receipt
        signed = signer_of(receipt_id, one.signed.signature) == receipt.node
        if not signed or receipt.offer_hash != offer_hash(offer_of(receipt)):
            wrong.append(to_hex(receipt_id))
    if wrong:
        return Check(
            "receipts", False, f"{len(wrong)} are not signed by their node: {', '.join(wrong[:3])} …"
        )
    return Check("receipts", True, f"all {len(file.receipt_ids)} are signed by their nodes")


def consents_of(file: EpochFile) -> list[tuple[Row, ConsentSignature | None]]:
    """Return each charge with the consent that came with it."""
    consents = iter(file.rows.consents)
    return [(row, next(consents) if row.flags & CHARGE_HAS_CONSENT else None) for row in file.rows.charges]


def unpacked(consent: ConsentSignature) -> bytes:
    """Return a compact signature (EIP-2098) in its 65-byte form."""
    vs = int.from_bytes(consent.vs, "big")
    return consent.r + (vs & _S_MASK).to_bytes(32, "big") + bytes([27 + (vs >> 255)])


def _check_hash(data: bytes | mmap, logs: Sequence[Log]) -> Check:
    found = to_hex(epoch_hash(data))
    closing = [log for log in logs if log.event == "EpochClosed"]
    if not closing:
        return Check("hash", None, f"the file hashes to {found}; the chain's node does not find EpochClosed")
    stated = to_hex(closing[-1].fields["fileHash"])
    return Check("hash", found == stated, f"the file hashes to {found}, EpochClosed says {stated}")


async def _check_rights(file: EpochFile, logs: Sequence[Log], chain: OnChain) -> Check:
    """No charge without a right to it: what the account authorized, or a consent of its own in the file."""
    # As of the settlement: an account that has left with everything took its right back since.
    at = max((log.block_number for log in logs), default=None)
    if at is None:
        return Check("rights", None, "the chain's node does not find the settlement's events")
    try:
        charges = consents_of(file)
        plain = [row for row, consent in charges if consent is None]
        there = await _accounts(plain, chain, at)
        wrong = [row.account for row in plain if row.amount > there[row.account].authorized]
        wrong += [
            row.account
            for row, consent in charges
            if consent is not None and not await _has_consented(row, consent, at, file, chain)
        ]
    except EvmError as error:
        return Check("rights", None, f"the chain's node has no state of block {at}: {error}")
    if wrong:
        return Check("rights", False, f"charges without a right: {', '.join(wrong[:3])}")
    signed = len(file.rows.consents)
    return Check(
        "rights",
        True,
        f"of {len(file.rows.charges)} charges {signed} bring a consent, the rest are authorized",
    )


async def _has_consented(
    row: Row, consent: ConsentSignature, at: int, file: EpochFile, chain: OnChain
) -> bool:
    digest = consent_digest(file.rows.domain, row.account, NanoUsd(consent.spent))
    try:
        signer = recover(digest, unpacked(consent))
    except BadSignature:
        return False
    own = signer == row.account or await chain.ledger.read("isConsentKey", row.account, signer, at=at)
    return bool(own) and row.amount <= consent.spent


async def _check_recorded(file: EpochFile, chain: OnChain) -> Check:
    """The chain has at least what the rows say; its numbers only grow."""
    rows = file.rows
    there = await _accounts([*rows.charges, *rows.payouts], chain, "latest")
    missing = [row.account for row in rows.charges if there[row.account].spent < row.amount]
    missing += [row.account for row in rows.payouts if there[row.account].earned < row.amount]
    if missing:
        return Check("recorded", False, f"rows that the chain does not have: {', '.join(missing[:3])}")
    counts = f"{len(file.rows.charges)} charges and {len(file.rows.payouts)} payouts"
    return Check("recorded", True, f"{counts} are on the chain")


async def _accounts(rows: Sequence[Row], chain: OnChain, at: int | str) -> dict[Address, _Account]:
    """Return the Ledger's accounts of some rows at a block. Raises EvmError."""
    addresses = sorted({row.account for row in rows})
    found = await chain.ledger.read_all("accountOf", addresses, at=at)
    return {address: _Account(*one) for address, one in zip(addresses, found, strict=True)}


async def _check_balance(file: EpochFile, logs: Sequence[Log], chain: OnChain) -> Check:
    """What the rows charge is what they pay out, counted from the block before the first of them."""
    settling = [log for log in logs if log.event == "ChunkSettled"]
    if not settling:
        return Check("sums", None, "the chain's node does not find the settlement's events")
    before = min(log.block_number for log in settling) - 1
    try:
        there = await _accounts([*file.rows.charges, *file.rows.payouts], chain, before)
    except EvmError as error:
        return Check("sums", None, f"the chain's node has no state of block {before}: {error}")
    charged = sum(row.amount - there[row.account].spent for row in file.rows.charges)
    paid = sum(row.amount - there[row.account].earned for row in file.rows.payouts)
    moved = sum(log.fields["moved"] for log in settling)
    sums = [f"${format_usd(NanoUsd(one))}" for one in (charged, paid, moved)]
    return Check("sums", charged == paid == moved, "{} charged, {} paid out, {} moved".format(*sums))


async def _logs_of(epoch: int, chain: OnChain) -> list[Log]:
    """Return the events of an epoch's settlement, searched from the head backwards."""
    ledger = {chain.ledger.address: chain.ledger.artifact}
    topics = [chain.ledger.artifact.topic("EpochClosed"), chain.ledger.artifact.topic("ChunkSettled")]
    head = await chain.connection.block()
    last, found = (head.number if head else -1), list[Log]()
    for _ in range(MOST_LOOKS):
        if last < 0:
            break
        first = max(0, last - BLOCKS_PER_LOOK + 1)
        logs = await chain.connection.logs(ledger, first, last, topics)
        found = [log for log in logs if log.fields["epoch"] == epoch] + found
        if any(log.fields["epoch"] < epoch for log in logs):
            break
        last = first - 1
    return found
