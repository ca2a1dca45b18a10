"""`/v1/epochs`: what was settled, as JSON or as the file whose hash is on the chain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer, count, moment
from marketplace.api.deps import Gate
from marketplace.domain.errors import NotFound
from marketplace.storage.database import Database
from marketplace.storage.queries import published
from marketplace.storage.tables import EpochRow
from tallystick.protocol.epochfile import decode_epoch, to_json
from tallystick.protocol.ids import to_hex

LISTED: Final = 50
RECEIPTS_SHOWN: Final = 100
MOST: Final = 2**63 - 1
BINARY: Final = "application/octet-stream"
FindFile = Callable[[bytes], Path]
"""Return where the epoch's file with this hash is kept."""


def epoch_routes(gate: Gate, database: Database, find_file: FindFile) -> list[BaseRoute]:
    """Return the routes of `/v1/epochs`."""

    async def several(request: Request) -> Response:
        gate.stranger(request)
        found = await database.read(lambda session: published.latest_epochs(session, LISTED))
        return answer({"object": "list", "data": [epoch_object(row) for row in found]})

    async def one(request: Request) -> Response:
        gate.stranger(request)
        number = count(request.path_params["number"], "epoch", most=MOST)
        row = await database.read(lambda session: published.find_epoch(session, number))
        path = None if row is None else find_file(row.file_hash)
        if row is None or path is None or not path.is_file():
            raise NotFound(f"Epoch {number} was not settled: nothing was due in it, or it is not over.")
        if BINARY in request.headers.get("accept", ""):
            return FileResponse(path, media_type=BINARY, headers={"etag": f'"{row.file_hash.hex()}"'})
        first = count(request.query_params.get("first_receipt", "0"), "first_receipt", most=MOST)
        content = await run_in_threadpool(
            lambda: to_json(decode_epoch(path.read_bytes()), first, RECEIPTS_SHOWN)
        )
        return answer(epoch_object(row) | {"file": content})

    return [
        Route("/v1/epochs", several, methods=["GET"]),
        Route("/v1/epochs/{number}", one, methods=["GET"]),
    ]


def epoch_object(row: EpochRow) -> dict[str, Any]:
    """Return an epoch's outcome: root, file, transaction and gas."""
    return {
        "epoch": row.number,
        "object": "epoch",
        "state": row.state,
        "receipts_root": to_hex(row.receipts_root),
        "receipt_count": row.receipt_count,
        "file_hash": to_hex(row.file_hash),
        "chunks": row.chunks,
        "sealed_at": moment(row.sealed_at),
        "closed_at": None if row.closed_at is None else moment(row.closed_at),
        "transaction": None if row.closed_transaction is None else to_hex(row.closed_transaction),
        "block": row.closed_block,
        "gas_used": row.gas_used,
    }
