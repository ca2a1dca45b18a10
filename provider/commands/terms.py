"""`price`, `pause`, `resume`: the terms on which the agent serves, changed while it runs or before."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from provider.commands.options import FORESEEN, HOME_DEFAULT, Home
from provider.commands.steering import change_config, models_of
from provider.config import load_config, save_config
from provider.control import NotRunning, ask
from tallystick.commands.console import AsJson, facts, foreseen, show

app = typer.Typer()
Model = Annotated[str, typer.Argument(help="The model's name; all of them if left out.")]


@app.command("price")
@foreseen(*FORESEEN)
def price(
    model: Model = "",
    input_price: Annotated[str | None, typer.Option("--input", help="USD per million prompt tokens.")] = None,
    output_price: Annotated[
        str | None, typer.Option("--output", help="USD per million answer tokens.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="How many jobs at once.")] = None,
    home: Home = HOME_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Change what a model costs, in steps of $0.001 per million tokens. Running jobs keep their price.

    Example: tallystick provider price smollm2-135m-instruct --input 0.25 --output 0.40
    """
    changes: dict[str, Any] = {}
    for name, value in (("input_price", input_price), ("output_price", output_price)):
        if value is not None:
            changes[name] = value
    if slots is not None:
        changes["slots"] = slots
    if not changes:
        raise ValueError("say what to change: --input, --output or --slots")
    show(_change(home, model, changes), as_json, facts)


@app.command("pause")
@foreseen(*FORESEEN)
def pause(model: Model = "", home: Home = HOME_DEFAULT, as_json: AsJson = False) -> None:
    """Take no new jobs; running ones end as usual.

    Example: tallystick provider pause
    """
    show(_change(home, model, {"paused": True}), as_json, facts)


@app.command("resume")
@foreseen(*FORESEEN)
def resume(model: Model = "", home: Home = HOME_DEFAULT, as_json: AsJson = False) -> None:
    """Take jobs again after a pause.

    Example: tallystick provider resume
    """
    show(_change(home, model, {"paused": False}), as_json, facts)


def _change(home: Path, model: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Tell the running agent, which also stores the change; without one, change the configuration."""
    try:
        return asyncio.run(ask(home, {"do": "terms", "model": model, **changes}))
    except NotRunning:
        return _change_config(home, model, changes)


def _change_config(home: Path, model: str, changes: dict[str, Any]) -> dict[str, Any]:
    config = load_config(home)
    change_config(config, model, changes)
    save_config(home, config)
    return {"running": False, "models": models_of(config)}
