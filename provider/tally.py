"""What the coordinator says about the node's receipts, checked and kept.

Its answers are stored in the background: nothing is lost if one is not (the receipt is sent again), and a
disk's pace must not hold up the jobs behind it.
"""

import asyncio
import sqlite3
from collections.abc import Coroutine
from typing import Any

import structlog

from provider.evidence import Evidence
from tallystick.protocol.eip712 import Domain, acknowledgement_digest, taken_digest
from tallystick.protocol.frames import Acknowledged, ReceiptRefused, ReceiptTaken
from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.money import NanoUsd, format_usd

log = structlog.get_logger()


class Tally:
    """The coordinator's half, as far as the node has it."""

    def __init__(self, evidence: Evidence, domain: Domain, operator: Address) -> None:
        self._evidence = evidence
        self._domain = domain
        self._operator = operator
        self._storing: set[asyncio.Task[None]] = set()

    def taken(self, frame: ReceiptTaken, coordinator: Address) -> None:
        """Keep the promise to settle a receipt, if it is the coordinator's own."""
        digest = taken_digest(self._domain, ReceiptId(frame.receipt_id), frame.epoch)
        if _is_signed_by(coordinator, digest, frame.signature):
            self._store(self._evidence.taken(frame))
        else:
            log.error("taken_not_signed_by_coordinator", receipt=frame.receipt_id.hex())

    def refused(self, frame: ReceiptRefused) -> None:
        """Note that a receipt will not be paid, and why."""
        log.error("receipt_refused", receipt=frame.receipt_id.hex(), reason=frame.reason)
        self._store(self._evidence.refused(frame))

    def acknowledged(self, frame: Acknowledged, coordinator: Address) -> None:
        """Keep a cheque, if it is made out to our operator and the coordinator's own."""
        digest = acknowledgement_digest(self._domain, frame.account, frame.epoch, frame.earned)
        if frame.account == self._operator and _is_signed_by(coordinator, digest, frame.signature):
            log.info("cheque", earned_usd=format_usd(NanoUsd(frame.earned)), epoch=frame.epoch)
            self._store(self._evidence.acknowledged(frame))
        else:
            log.error("cheque_not_good", account=frame.account, earned=frame.earned)

    async def stored(self) -> None:
        """Return when everything that was said so far is on disk."""
        while self._storing:
            await asyncio.wait(self._storing)

    def _store(self, writing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(writing))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)


async def _logged(writing: Coroutine[Any, Any, None]) -> None:
    try:
        await writing
    except sqlite3.Error:
        # The receipt stays pending and is sent again at the next connection; cheques come again every epoch.
        log.exception("evidence_not_stored")


def _is_signed_by(signer: Address, digest: bytes, signature: bytes) -> bool:
    try:
        return recover(digest, signature) == signer
    except BadSignature:
        return False
