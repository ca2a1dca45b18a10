"""`tallystick account …`: open an account, hold its keys, move its money."""

import typer

from tallystick.commands.account import keys, money, open_, withdrawals

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Open an account, manage its API keys, deposit, consent and withdraw.",
    epilog="Start with: tallystick account sign-up you@example.org   (credit)   "
    "or: tallystick account create-wallet   (your own deposit)",
)
for part in (open_.app, keys.app, money.app, withdrawals.app):
    app.registered_commands += part.registered_commands
