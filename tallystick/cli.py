"""`tallystick …`: puts together the commands that the installed packages register.

A package registers a `typer.Typer` (a group) or a function (a single command) under the entry point
`tallystick.commands`; the name of the entry point is the name of the command. So this module knows neither
the coordinator nor the provider, and a machine with only one of them shows only its commands.
"""

import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.metadata import version as installed_version
from typing import Any

import click
import typer
from typer.core import TyperGroup

from tallystick.commands.summaries import summary_of

COMMANDS = "tallystick.commands"


class _Registered(TyperGroup):
    """Loads the module of a command when the command is asked for: the others may lack what they need.

    A list of all of them loads none.
    """

    _lists = False

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._lists = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._lists = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(point.name for point in _points())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for point in _points():
            if point.name == cmd_name:
                return _listed(point) if self._lists else _command(point)
        return None


def _points() -> list[EntryPoint]:
    return list(entry_points(group=COMMANDS))


def _command(point: EntryPoint) -> Any:
    try:
        target = point.load()
    except ModuleNotFoundError as error:
        needs = ", ".join(point.extras) or "coordinator,provider"
        return _missing(point.name, f"{error}. Install it with: pip install 'tallystick[{needs}]'")
    if isinstance(target, typer.Typer):
        command = typer.main.get_command(target)
    else:
        single = typer.Typer(add_completion=False)
        single.command(name=point.name)(target)
        command = typer.main.get_command(single)
    command.name = point.name
    return command


def _listed(point: EntryPoint) -> click.Command:
    return click.Command(point.name, help=summary_of(point.module, point.attr))


def _missing(name: str, why: str) -> click.Command:
    def explain() -> None:
        raise click.ClickException(f"`tallystick {name}` is not installed: {why}")

    return click.Command(
        name, callback=explain, help="(not installed)", context_settings={"ignore_unknown_options": True}
    )


app = typer.Typer(
    cls=_Registered,
    no_args_is_help=True,
    add_completion=False,
    help="A market for AI inference: pay per token, serve from your own GPU, verify every charge.",
)


@app.callback()
def root() -> None:
    """A market for AI inference: pay per token, serve from your own GPU, verify every charge."""


@app.command()
def version() -> None:
    """Print the version of this installation.

    Example: tallystick version
    """
    typer.echo(installed_version("tallystick"))


def main() -> None:
    """Run the command line; foreseen errors print one line and exit with 1."""
    app(args=sys.argv[1:], prog_name="tallystick")
