"""Which of `init`'s options an engine is given."""

from pathlib import Path
from typing import Any, Final

from tallystick.commands.console import CommandFailed

TAKES: Final = {
    "transformers": ("dtype", "device", "threads"),
    "openai": ("url", "tokenizer", "context_length", "api_key_env", "api_key_file"),
}
"""An engine that is not here takes none."""

ELSEWHERE: Final = {"dtype": "float32", "device": "auto"}
"""Defaults that say nothing about what somebody wanted."""


def options_of(engine: str, **given: Any) -> dict[str, Any]:
    """Return the options to keep for `engine`; paths are made absolute, since agents start anywhere.

    Raises CommandFailed for an option that the engine does not take, or without one that it needs.
    """
    wanted = {name: value for name, value in given.items() if value not in (None, "")}
    taken = TAKES.get(engine, ())
    if wrong := [name for name in wanted if name not in taken and wanted[name] != ELSEWHERE.get(name)]:
        raise CommandFailed(f"the {engine} engine does not take {', '.join(_flag(one) for one in wrong)}")
    if engine == "openai" and "url" not in wanted:
        raise CommandFailed("the openai engine needs --url, where the server is: http://127.0.0.1:8000/v1")
    return {name: _kept(value) for name, value in wanted.items() if name in taken}


def _kept(value: Any) -> Any:
    return str(value.expanduser().resolve()) if isinstance(value, Path) else value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
