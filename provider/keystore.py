"""The agent's two keys, each in an encrypted Ethereum keystore.

The operator's key (cold) stakes, claims and leaves; the node's key (hot) signs receipts while the agent runs.
They are separate files, so that a machine that only serves need not have the operator's.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any, Literal

from tallystick.keystores import decrypted, encrypted
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import SigningKey

Role = Literal["operator", "node", "node.next"]
"""`node.next` is the key that takes the node's place in a rotation."""


class KeyUnavailable(Exception):
    """A key cannot be had: no file, or a wrong passphrase."""


def key_path(home: Path, role: Role) -> Path:
    """Return where the key of `role` is kept."""
    return home / "keys" / f"{role}.json"


def make_key(home: Path, role: Role, passphrase: str) -> Address:
    """Make a key, store it encrypted, and return its address.

    Raises FileExistsError rather than overwrite a key, since there may be a stake behind it.
    """
    return import_key(home, role, secrets.token_bytes(32), passphrase)


def import_key(home: Path, role: Role, secret: bytes, passphrase: str) -> Address:
    """Store a key that exists already; see `make_key`. Raises ValueError if `secret` is not a key."""
    address = SigningKey(secret).address
    path = key_path(home, role)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(encrypted(secret, passphrase), file)
    return address


def load_key(home: Path, role: Role, passphrase: str) -> SigningKey:
    """Return a stored key. Raises KeyUnavailable, saying which file and why."""
    return SigningKey(load_secret(home, role, passphrase))


def load_secret(home: Path, role: Role, passphrase: str) -> bytes:
    """Return a stored key's 32 bytes. Raises KeyUnavailable, saying which file and why."""
    path, keystore = _read(home, role)
    try:
        return decrypted(keystore, passphrase)
    except ValueError as error:
        raise KeyUnavailable(f"the passphrase does not open {path}") from error
    except Exception as error:  # the library takes the file's form for granted and raises anything
        raise KeyUnavailable(f"{path} is not an Ethereum keystore: {error!r}") from error


def address_of(home: Path, role: Role) -> Address:
    """Return a stored key's address, which needs no passphrase. Raises KeyUnavailable, saying why."""
    path, keystore = _read(home, role)
    try:
        return to_address("0x" + str(keystore["address"]).removeprefix("0x"))
    except (KeyError, ValueError) as error:
        raise KeyUnavailable(f"{path} does not say its address: {error!r}") from error


def _read(home: Path, role: Role) -> tuple[Path, dict[str, Any]]:
    path = key_path(home, role)
    try:
        keystore = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise KeyUnavailable(f"there is no {role} key at {path}") from error
    except (ValueError, RecursionError) as error:
        raise KeyUnavailable(f"{path} is not an Ethereum keystore: {error}") from error
    if not isinstance(keystore, dict):
        raise KeyUnavailable(f"{path} is not an Ethereum keystore")
    return path, keystore
