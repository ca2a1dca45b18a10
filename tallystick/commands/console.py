"""How every command speaks: rich for people, one JSON document for programs, one line for what went wrong."""

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

P = ParamSpec("P")
T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


class CommandFailed(Exception):
    """A command cannot go on; the message says what happened and what to do."""


def show(result: Any, as_json: bool, render: Callable[[Any], Any]) -> None:
    """Print `result` as JSON, or what `render` makes of it."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str))
    else:
        console.print(render(result))


def facts(pairs: dict[str, Any]) -> Table:
    """Return a two-column table of names and values."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in pairs.items():
        table.add_row(name, str(value))
    return table


def foreseen(*kinds: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Turn the exceptions that a command expects into one line on stderr and exit code 1."""

    expected: tuple[type[Exception], ...] = (CommandFailed, *kinds)

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return command(*args, **kwargs)
            except expected as error:
                errors.print(f"[red]Error:[/red] {error}", markup=True)
                raise typer.Exit(1) from error

        return run

    return decorate
