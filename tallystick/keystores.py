"""Keys encrypted under a passphrase, in the form that Ethereum's wallets read (Web3 Secret Storage)."""

from typing import Any


def encrypted(secret: bytes, passphrase: str) -> dict[str, Any]:
    """Return the 32-byte `secret`, encrypted, as what is stored as JSON."""
    result: dict[str, Any] = _library().encrypt(secret, passphrase)
    return result


def decrypted(keystore: Any, passphrase: str) -> bytes:
    """Return the 32 bytes that a keystore has. Raises ValueError for a wrong passphrase.

    The library takes a keystore's form for granted, and raises anything for one that is damaged.
    """
    return bytes(_library().decrypt(keystore, passphrase))


def _library() -> Any:
    # Half a second to import, and most commands open no keystore.
    from eth_account import Account

    return Account
