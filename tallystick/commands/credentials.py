"""Where a consumer's command line keeps what it needs: the market's address, the API key, the wallet.

All of it is in `$TALLYSTICK_HOME` (`~/.tallystick`): `credentials.json` readable by its owner alone, and
`wallet.json`, an encrypted Ethereum keystore.
"""

import getpass
import json
import os
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from tallystick.commands.console import CommandFailed
from tallystick.keystores import decrypted, encrypted
from tallystick.protocol.ids import to_bytes32

DEFAULT_URL = "http://127.0.0.1:8080/v1"
_MOST_KEY = 200


def home() -> Path:
    """Return the directory of this person's files."""
    return Path(os.environ.get("TALLYSTICK_HOME", "~/.tallystick")).expanduser()


@dataclass(slots=True)
class Credentials:
    """What `account sign-up` and `account sign-in` remember."""

    base_url: str = DEFAULT_URL
    api_key: str = ""
    session: str = ""
    rpc_url: str = ""


def load_credentials() -> Credentials:
    """Return what is stored, overridden by TALLYSTICK_URL, TALLYSTICK_API_KEY and TALLYSTICK_RPC_URL."""
    path = home() / "credentials.json"
    stored = Credentials(**json.loads(path.read_text())) if path.exists() else Credentials()
    stored.base_url = os.environ.get("TALLYSTICK_URL", stored.base_url)
    stored.api_key = os.environ.get("TALLYSTICK_API_KEY", stored.api_key)
    stored.rpc_url = os.environ.get("TALLYSTICK_RPC_URL", stored.rpc_url)
    return stored


def save_credentials(credentials: Credentials) -> None:
    """Store `credentials`, readable by their owner alone."""
    write_private(home() / "credentials.json", json.dumps(asdict(credentials), indent=2))


def write_private(path: Path, text: str) -> None:
    """Write a file that was never readable by others, not even while it was new."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)


def passphrase(path: Path | None, *, confirm: bool = False, words: str = "Passphrase") -> str:
    """Return the passphrase from a file, from TALLYSTICK_PASSPHRASE, or asked for with `words`.

    Raises CommandFailed if the file cannot be read, or if nobody is there to be asked.
    """
    if path is not None:
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"the passphrase cannot be read from {path}: {error}") from error
    if given := os.environ.get("TALLYSTICK_PASSPHRASE"):
        return given
    try:
        with warnings.catch_warnings():
            # Without a terminal the passphrase may still come through a pipe, which shows it to nobody.
            warnings.simplefilter("ignore", getpass.GetPassWarning)
            return str(typer.prompt(words, hide_input=True, confirmation_prompt=confirm))
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise CommandFailed(
            "a passphrase is needed and nobody is there to type it; "
            "set TALLYSTICK_PASSPHRASE or --passphrase-file"
        ) from None


def key_from_file(path: Path) -> bytes:
    """Return the 32-byte key that a file has in hex; `-` is the standard input.

    A key is never an argument: the list of processes shows those to everybody on the machine, and the shell
    keeps them. Raises CommandFailed, which does not quote what is there.
    """
    try:
        text = sys.stdin.readline(_MOST_KEY) if str(path) == "-" else path.read_text()
        return to_bytes32(text.strip())
    except OSError as error:
        raise CommandFailed(f"the key cannot be read from {path}: {error}") from error
    except ValueError:
        raise CommandFailed(f"{path} has no key: 64 hex digits") from None


def store_wallet(secret: bytes, words: str) -> Path:
    """Encrypt the 32-byte `secret` under the passphrase `words` and return the keystore's path.

    Raises CommandFailed rather than overwrite a wallet, since there may be money behind it.
    """
    path = home() / "wallet.json"
    if path.exists():
        raise CommandFailed(f"{path} exists already; move it away first, there may be money behind it")
    write_private(path, json.dumps(encrypted(secret, words)))
    return path


def load_wallet(words: str) -> bytes:
    """Return the wallet's 32-byte secret. Raises CommandFailed without one, or for a wrong passphrase."""
    path = home() / "wallet.json"
    if not path.exists():
        raise CommandFailed(f"there is no wallet at {path}; make one with: tallystick account create-wallet")
    try:
        return decrypted(json.loads(path.read_text()), words)
    except ValueError as error:
        raise CommandFailed(f"the passphrase does not open {path}") from error
