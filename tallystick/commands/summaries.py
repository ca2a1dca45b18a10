"""What a command says of itself, read from its source: a list of all commands loads none of them."""

import ast
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path


def summary_of(module: str, name: str) -> str:
    """Return the help of the `typer.Typer` or the function `name` in a module, empty if there is none.

    The module is not imported, and neither is one that it has the name from.
    """
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return ""
    if spec is None or spec.origin is None:
        return ""
    for statement in ast.parse(Path(spec.origin).read_bytes()).body:
        match statement:
            case ast.FunctionDef(name=found) if found == name:
                return cleandoc(ast.get_docstring(statement) or "")
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Call(keywords=given)) if found == name:
                return next((_text(one.value) for one in given if one.arg == "help"), "")
            case ast.ImportFrom(module=str(origin), names=names) if any(
                one.name == name and one.asname is None for one in names
            ):
                return summary_of(origin, name)
    return ""


def _text(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else ""
