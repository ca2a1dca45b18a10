"""Options that the provider's commands share, and how they find their home and keys."""

import os
from pathlib import Path
from typing import Annotated

import typer

from provider.config import BadConfig, default_home
from provider.keystore import KeyUnavailable
from provider.wallet import NoChain
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
    """Return the passphrase from a file, from TALLYSTICK_PASSPHRASE, or asked for at the terminal."""
    if path is not None:
        return path.read_text().strip()
    if given := os.environ.get("TALLYSTICK_PASSPHRASE"):
        return given
    return str(typer.prompt("Passphrase for the keys", hide_input=True, confirmation_prompt=confirm))
