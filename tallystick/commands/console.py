"""How every command speaks: rich for people, one JSON document for programs, one line for what went wrong."""

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tallystick.protocol.money import NanoUsd, format_usd

P = ParamSpec("P")
T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
ADDRESS_SHOWN = 12

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
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name.replace("_", " "), escape(_words(value)))
    return table


def short(identifier: str) -> str:
    """Return the beginning of an address or a hash, for a table that needs the room."""
    return f"{identifier[:ADDRESS_SHOWN]}…"


def dollars(nano: Any) -> str:
    """Return nano-dollars, a number or its digits, as dollars for people."""
    return f"${format_usd(NanoUsd(int(nano)))}"


def _words(value: Any) -> str:
    """Return a value in words: a list has a line for each item, a missing value a dash."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return "\n".join(_words(one) for one in value) or "–"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')}: {_words(one)}" for name, one in value.items())
        case _:
            return str(value)


def foreseen(*kinds: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Turn the exceptions that a command expects into one line on stderr and exit code 1."""

    expected: tuple[type[Exception], ...] = (CommandFailed, *kinds)

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return command(*args, **kwargs)
            except expected as error:
                errors.print(f"[red]Error:[/red] {escape(str(error) or type(error).__name__)}")
                raise typer.Exit(1) from error

        return run

    return decorate
