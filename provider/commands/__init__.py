"""`tallystick provider …`: from nothing to the first paid job, and out again."""

import typer

from provider.commands import doctor, earnings, leave, rotate, run, setup, terms

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Serve models from your own machine and be paid per token.",
    epilog="Three commands to the first paid job:  tallystick provider init  ·  register  ·  run     "
    "(doctor says what is missing)",
)
for part in (setup.app, doctor.app, run.app, terms.app, earnings.app, rotate.app, leave.app):
    app.registered_commands += part.registered_commands
