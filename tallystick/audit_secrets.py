"""The secret that chooses an epoch's audits: its hash is on the chain before, the secret at its close.

Secrets are not stored but made anew from the coordinator's key, so that a crash loses none: the deterministic
signature of a label that nobody else asks the key to sign is known to its holder alone.
"""

from typing import Final

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.keys import SigningKey

_LABEL: Final = b"tallystick/audit-secret/v1\0"


def audit_secret(coordinator: SigningKey, *, chain_id: int, genesis: int, first_epoch: int) -> bytes:
    """Return the secret (32 bytes) for the closing that comes when `first_epoch` is the Ledger's next epoch.

    `genesis` (seconds) is the Ledger's, so that two deployments under one key do not share their secrets.
    """
    numbers = b"".join(number.to_bytes(32, "big") for number in (chain_id, genesis, first_epoch))
    return keccak256(coordinator.sign_digest(keccak256(_LABEL + numbers)))


def audit_secret_hash(secret: bytes) -> bytes:
    """Return what is committed to on the chain: keccak256 of the 32 bytes, as the Ledger computes it."""
    return keccak256(secret)
