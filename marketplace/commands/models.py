"""`tallystick models …`: what a coordinator knows, and what a closed one admits."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from marketplace.commands.books import DataDir, local_settings, open_books
from marketplace.domain.errors import MarketError
from marketplace.services.catalog import AdmittedModel, admitted_before, read_catalog_file
from marketplace.settings import Settings
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.models.manifest import BadManifest, decode_manifest, model_id
from tallystick.protocol.ids import ModelId, to_bytes32, to_hex

app = typer.Typer(
    no_args_is_help=True,
    help="See the models of the coordinator on this machine, and admit some to a closed catalog.",
    epilog="Example: tallystick models list",
)


@app.command("list")
@foreseen(MarketError, ValueError)
def list_models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the models that were admitted, and those that a closed catalog waits for.

    Example: tallystick models list
    """
    settings = local_settings(data_dir)

    async def act() -> Sequence[AdmittedModel]:
        async with open_books(settings) as books:
            return await books.read(admitted_before)

    show(_told(settings, asyncio.run(act())), as_json, _table)


@app.command("add")
@foreseen(MarketError, BadManifest, ValueError, OSError)
def add(
    model: Annotated[str, typer.Argument(help="The model's id (0x…), or the path of its manifest.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Admit a model to the closed catalog. It counts from the coordinator's next start.

    The catalog is closed with TALLYSTICK_OPEN_CATALOG=false; an open one admits what staked nodes offer.

    Example: tallystick models add 0x33a37daaaccf45f07c2e9dd94a8b0eeda875662ea0ed8d8fc977da6880f5473b
    """
    settings = local_settings(data_dir)
    path = settings.catalog_path
    wanted = _id_of(model)
    known = read_catalog_file(path) if path.exists() else frozenset()
    _save(path, known | {wanted})
    told = {"model": to_hex(wanted), "catalog_file": str(path), "models": len(known | {wanted})}
    show(told | {"open_catalog": settings.open_catalog}, as_json, facts)


def _id_of(model: str) -> ModelId:
    if model.startswith("0x"):
        return ModelId(to_bytes32(model))
    path = Path(model)
    if not path.is_file():
        raise CommandFailed(f"{model!r} is neither a model id (0x…) nor a manifest's file")
    raw = path.read_bytes()
    decode_manifest(raw)
    return model_id(raw)


def _save(path: Path, models: frozenset[ModelId]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(json.dumps({"models": sorted(to_hex(one) for one in models)}, indent=2) + "\n")
    fresh.replace(path)


def _told(settings: Settings, admitted: Sequence[AdmittedModel]) -> dict[str, Any]:
    path = settings.catalog_path
    listed = frozenset[ModelId]() if settings.open_catalog or not path.exists() else read_catalog_file(path)
    known = [
        {
            "name": one.name,
            "model": to_hex(one.id),
            "numerics": one.numerics,
            "state": "admitted" if settings.open_catalog or one.id in listed else "not in the catalog file",
        }
        for one in admitted
    ]
    waiting = listed - {one.id for one in admitted}
    known += [
        {"name": "", "model": to_hex(one), "numerics": "", "state": "waits for a node that offers it"}
        for one in sorted(waiting)
    ]
    return {"open_catalog": settings.open_catalog, "catalog_file": str(path), "models": known}


def _table(told: dict[str, Any]) -> Table:
    rows = Table("name", "model", "numerics", "state", box=None, pad_edge=False)
    for one in told["models"]:
        rows.add_row(one["name"], one["model"], one["numerics"], one["state"])
    return rows
