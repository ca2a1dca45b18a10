"""A batch as the Ledger's call, and the Ledger's refusal as a fault of the batch."""

from marketplace.domain.ports.chain import Batch, Closing, Fault, FaultKind
from tallystick.evm import Call, Contract, Reverted
from tallystick.protocol.keys import BadSignature, to_compact
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row, pack_row


def batch_call(ledger: Contract, batch: Batch) -> Call:
    """Return the call that sends `batch`. `malformed_consent` has no objection."""
    charges = [
        pack_row(Row(charge.account, charge.spent, CHARGE_HAS_CONSENT if charge.consent else 0))
        for charge in batch.charges
    ]
    consents = [
        (charge.consent.spent, *to_compact(charge.consent.signature))
        for charge in batch.charges
        if charge.consent
    ]
    payouts = [pack_row(Row(payout.account, payout.earned)) for payout in batch.payouts]
    rows = (batch.epoch, batch.chunk, charges, consents, payouts)
    if batch.closing is None:
        return ledger.prepare("settle", *rows)
    return ledger.prepare("settleAndClose", *rows, _fields(batch.closing))


def malformed_consent(batch: Batch) -> Fault | None:
    """Return the first consent that has no compact form, so that it cannot even be sent."""
    for row, charge in enumerate(batch.charges):
        if charge.consent is None:
            continue
        try:
            to_compact(charge.consent.signature)
        except BadSignature as error:
            return Fault(FaultKind.CHARGE, row, f"the consent of {charge.account} is malformed: {error}")
    return None


def fault_of(refusal: Reverted) -> Fault:
    """Return which part of the batch the Ledger refused, and why."""
    row = refusal.fields.get("row", 0)
    if refusal.name.startswith(("Ledger_Charge", "Ledger_Consent")) and "row" in refusal.fields:
        return Fault(FaultKind.CHARGE, row, refusal.text)
    if refusal.name.startswith(("Ledger_Payout", "Ledger_PoolShort")):
        return Fault(FaultKind.PAYOUT, row, refusal.text)
    return Fault(FaultKind.BATCH, 0, refusal.text)


def _fields(closing: Closing) -> tuple[bytes, int, bytes, bytes, bytes]:
    return (
        closing.receipts_root,
        closing.receipt_count,
        closing.file_hash,
        closing.audit_secret,
        closing.next_audit_secret_hash,
    )
