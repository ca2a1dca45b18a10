"""How every command speaks: rich for people, one JSON document for programs, one line for what went wrong."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import wrap
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.text import Text

from tallystick.protocol.money import NanoUsd, format_usd

P = ParamSpec("P")
T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
ADDRESS_SHOWN = 12
LEAST_ROOM = 20

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


class CommandFailed(Exception):
    """A command cannot go on; the message says what happened and what to do."""


def show(result: Any, as_json: bool, render: Callable[[Any], Any]) -> None:
    """Print `result` as JSON, or what `render` makes of it."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str))
    else:
        console.print(render(result))


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values in two columns. Sentences are wrapped; a word that is too long for its column, such as
    a hash, stays whole, so that it can be copied."""

    pairs: dict[str, Any]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Give a line of text for each line."""
        indent = max((len(name) for name in self.pairs), default=0) + 2
        room = max(LEAST_ROOM, options.max_width - indent)
        for name, value in self.pairs.items():
            head = Text(f"{name.replace('_', ' '):<{indent}}", style="dim", end="")
            for line in _wrapped(_words(value), room) or [""]:
                yield head
                yield Text(line, no_wrap=True, overflow="ignore")
                head = Text(" " * indent, end="")


def _wrapped(text: str, room: int) -> list[str]:
    """Return lines of words; one that has no room in a line has a longer line to itself."""
    return [
        line
        for said in text.splitlines()
        for line in wrap(said, room, break_long_words=False, break_on_hyphens=False)
    ]


def facts(pairs: dict[str, Any]) -> Facts:
    """Return two columns of names and values."""
    return Facts(pairs)


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
