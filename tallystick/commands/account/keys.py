"""API keys: what programs spend with."""

from typing import Annotated, Any

import typer
from rich.table import Table

from tallystick.commands.console import AsJson, facts, foreseen, show
from tallystick.commands.market import Api
from tallystick.protocol.money import NanoUsd, format_usd
from tallystick.sdk.answers import TallystickError

app = typer.Typer()
KeyId = Annotated[str, typer.Argument(help="The key's id, as `account keys` lists it.")]


@app.command("keys")
@foreseen(TallystickError)
def list_keys(as_json: AsJson = False) -> None:
    """List the API keys: prefix, name, cap and what was spent with each.

    Example: tallystick account keys
    """
    show(Api().call("GET", "/keys"), as_json, _table)


@app.command("create-key")
@foreseen(TallystickError)
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    cap: Annotated[
        str | None, typer.Option(help="The most that may ever be spent with it, in dollars.")
    ] = None,
    inference_only: Annotated[
        bool, typer.Option("--inference-only", help="It can run jobs and read the balance, nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown once.

    Example: tallystick account create-key batch --cap 5 --inference-only
    """
    body = {"name": name, "cap_usd": cap, "scope": "inference" if inference_only else "full"}
    show(Api().call("POST", "/keys", body), as_json, facts)


@app.command("rename-key")
@foreseen(TallystickError)
def rename_key(key_id: KeyId, name: Annotated[str, typer.Argument()], as_json: AsJson = False) -> None:
    """Rename an API key.

    Example: tallystick account rename-key KEY_ID nightly
    """
    show(Api().call("PATCH", f"/keys/{key_id}", {"name": name}), as_json, facts)


@app.command("cap-key")
@foreseen(TallystickError)
def cap_key(
    key_id: KeyId,
    cap: Annotated[str, typer.Argument(help="Dollars, or `none`.")],
    as_json: AsJson = False,
) -> None:
    """Change the most that may be spent with an API key.

    Example: tallystick account cap-key KEY_ID 2.50
    """
    body = {"cap_usd": None if cap == "none" else cap}
    show(Api().call("PATCH", f"/keys/{key_id}", body), as_json, facts)


@app.command("revoke-key")
@foreseen(TallystickError)
def revoke_key(key_id: KeyId, as_json: AsJson = False) -> None:
    """Revoke an API key; it stops working at once.

    Example: tallystick account revoke-key KEY_ID
    """
    show(Api().call("DELETE", f"/keys/{key_id}"), as_json, facts)


def _table(told: dict[str, Any]) -> Table:
    table = Table("id", "key", "name", "scope", "spent", "cap", "revoked")
    for key in told["data"]:
        cap = key.get("cap_nano_usd")
        table.add_row(
            key["id"],
            key["prefix"] + "…",
            key["name"],
            key["scope"],
            f"${format_usd(NanoUsd(int(key['spent_nano_usd'])))}",
            "–" if cap is None else f"${format_usd(NanoUsd(int(cap)))}",
            "yes" if key.get("revoked") else "",
        )
    return table
