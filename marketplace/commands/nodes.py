"""`tallystick nodes …`: the nodes that a market knows, for its operator."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from marketplace.commands.books import DataDir
from marketplace.commands.opened import read_books, write_books
from marketplace.domain.errors import MarketError
from marketplace.services.suspension import known_nodes, set_nodes_suspended
from marketplace.storage.tables import NodeRow
from tallystick.commands.console import AsJson, facts, foreseen, show

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="See the nodes that were ever connected, suspend some, and let them go on.",
    epilog="Example: tallystick nodes suspend 0x…",
)
Address = Annotated[str, typer.Argument(help="A node's address, or an operator's for all of its nodes.")]


@app.command("list")
@foreseen(MarketError, ValueError)
def list_nodes(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the nodes by operator, with their record. Who is connected now: tallystick doctor.

    Example: tallystick nodes list
    """
    show({"nodes": [_line(one) for one in read_books(data_dir, known_nodes)]}, as_json, _lines)


@app.command("suspend")
@foreseen(MarketError, ValueError)
def suspend(address: Address, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a node no new jobs, from a second or so on. What it runs it finishes, and is paid for.

    With an operator's address all nodes that it has shown so far. A new node of an operator whose nodes are
    all suspended begins so.

    Example: tallystick nodes suspend 0x70997970C51812dc3A010C7d01b50e0d17dc79C8
    """
    _set(address, True, data_dir, as_json)


@app.command("resume")
@foreseen(MarketError, ValueError)
def resume(address: Address, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a suspended node, or all of an operator's, jobs again.

    Example: tallystick nodes resume 0x70997970C51812dc3A010C7d01b50e0d17dc79C8
    """
    _set(address, False, data_dir, as_json)


def _set(address: str, suspended: bool, data_dir: Path | None, as_json: bool) -> None:
    changed = write_books(data_dir, lambda session: set_nodes_suspended(session, address, suspended))
    show({"nodes": list(changed), "suspended": suspended}, as_json, facts)


def _line(node: NodeRow) -> dict[str, Any]:
    return {
        "node": node.address,
        "operator": node.operator,
        "suspended": node.suspended,
        "last_seen": datetime.fromtimestamp(node.last_seen // 1000, UTC).isoformat(),
        "jobs_done": node.jobs_done,
        "jobs_failed": node.jobs_failed,
        "region": node.region,
        "hardware": node.hardware,
        "software": node.software,
    }


def _lines(told: dict[str, Any]) -> str:
    """Return some lines for each node: other commands want its whole address, too long for a table."""
    lines = []
    for one in told["nodes"]:
        state = "suspended" if one["suspended"] else "may serve"
        jobs = f"until then {one['jobs_done']} jobs done, {one['jobs_failed']} failed"
        lines += [
            one["node"],
            f"    operator {one['operator']}",
            f"    {state}, came or left last {one['last_seen']}, {jobs}",
            f"    {escape(one['software'])}",
        ]
    return "\n".join(lines) or "There are no such nodes."
