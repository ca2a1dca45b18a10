"""What settlement is told by the settings and the deployment."""

from dataclasses import dataclass

from marketplace.domain.epochs import EpochClock, RowRules
from tallystick.audit_secrets import audit_secret
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class SettlementTerms:
    """Epochs as the Ledger counts them, when a row is due, and who balances the pool."""

    domain: Domain
    epochs: EpochClock
    treasury: Address
    row_threshold: NanoUsd
    longest_wait_epochs: int
    rows_per_chunk: int
    confirmations: int

    @property
    def rules(self) -> RowRules:
        """When an account is due."""
        return RowRules(self.row_threshold, self.longest_wait_epochs * self.epochs.length * 1000)

    def secret(self, key: SigningKey, first_epoch: int) -> bytes:
        """Return the audit secret for the closing that comes when `first_epoch` is the Ledger's next."""
        return audit_secret(
            key, chain_id=self.domain.chain_id, genesis=self.epochs.genesis, first_epoch=first_epoch
        )

    def promised_epoch(self, now_ms: int) -> int:
        """Return the epoch by whose closing what has matured at a time is settled, at the latest."""
        return self.epochs.promised(now_ms // 1000, self.longest_wait_epochs)
