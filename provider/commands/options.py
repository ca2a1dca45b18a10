"""Options that the provider's commands share, and how they find their home and keys."""

from pathlib import Path
from typing import Annotated

import typer

from provider.config import BadConfig, default_home
from provider.keystore import KeyUnavailable
from provider.wallet import NoChain
from tallystick.commands import credentials
from tallystick.evm import EvmError

Home = Annotated[
    Path,
    typer.Option(
        "--home",
        help="The agent's directory.",
        envvar="TALLYSTICK_PROVIDER_HOME",
        show_default="~/.tallystick/provider",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="File with the passphrase (else TALLYSTICK_PASSPHRASE, or a prompt)."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")]
HOME_DEFAULT = default_home()
FORESEEN = (BadConfig, KeyUnavailable, NoChain, EvmError, ValueError)


def passphrase(path: Path | None, *, confirm: bool = False) -> str:
    """Return the passphrase of both keys, from where `credentials.passphrase` finds it, or asked for."""
    return credentials.passphrase(path, confirm=confirm, words="Passphrase for the keys")
