"""`/v1/epochs`: what was settled, as JSON or as the file whose hash is on the chain.

Anybody may ask, so an answer costs little however large the file is: a page of it is read where it lies on
the disk, the last pages are remembered, and whoever has an answer already is told that it still holds.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from marketplace.api.bodies import answer, count, moment
from marketplace.api.deps import Gate
from marketplace.domain.errors import NotFound
from marketplace.storage.database import Database
from marketplace.storage.queries import published
from marketplace.storage.tables import EpochRow
from tallystick.protocol.epochfile import page_to_json
from tallystick.protocol.ids import to_hex

LISTED: Final = 50
RECEIPTS_SHOWN: Final = 100
MOST: Final = 2**63 - 1
PAGES_KEPT: Final = 32
READ_AT_ONCE: Final = 2
FOR_EVER: Final = "public, max-age=31536000, immutable"
BINARY: Final = "application/octet-stream"
FindFile = Callable[[bytes], Path]
"""Return where the epoch's file with this hash is kept."""


def epoch_routes(gate: Gate, database: Database, find_file: FindFile) -> list[BaseRoute]:
    """Return the routes of `/v1/epochs`."""

    pages = _Pages()

    async def several(request: Request) -> Response:
        gate.stranger(request)
        found = await database.read(lambda session: published.latest_epochs(session, LISTED))
        return answer({"object": "list", "data": [epoch_object(row) for row in found]})

    async def one(request: Request) -> Response:
        gate.stranger(request)
        number = count(request.path_params["number"], "epoch", most=MOST)
        first = count(request.query_params.get("first_receipt", "0"), "first_receipt", most=MOST)
        row = await database.read(lambda session: published.find_epoch(session, number))
        path = None if row is None else find_file(row.file_hash)
        if row is None or path is None or not path.is_file():
            raise NotFound(f"Epoch {number} was not settled: nothing was due in it, or it is not over.")
        is_binary = BINARY in request.headers.get("accept", "")
        headers = _cache_headers(row, "" if is_binary else f"-{row.state}-{first}")
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if is_binary:
            return FileResponse(path, media_type=BINARY, headers=headers)
        content = await pages.read(path, row.file_hash, first)
        body = msgspec.json.encode(epoch_object(row) | {"file": content})
        return Response(body, 200, headers, "application/json")

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


def _cache_headers(row: EpochRow, form: str) -> dict[str, str]:
    """Name the answer by the file's hash and its form; a closed epoch's never changes."""
    keep = FOR_EVER if row.state == "closed" else "no-cache"
    return {"etag": f'"{row.file_hash.hex()}{form}"', "cache-control": keep, "vary": "accept"}


class _Pages:
    """Pages of epoch files; the last few are remembered as they are sent."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, int], msgspec.Raw] = OrderedDict()
        self._reading = asyncio.Semaphore(READ_AT_ONCE)

    async def read(self, path: Path, file_hash: bytes, first: int) -> msgspec.Raw:
        """Return the JSON of a file's rows and of its receipts from `first` on."""
        key = (file_hash, first)
        async with self._reading:
            if key not in self._known:
                self._known[key] = await asyncio.to_thread(_page, path, file_hash, first)
        page = self._known[key]
        self._known.move_to_end(key)
        while len(self._known) > PAGES_KEPT:
            self._known.popitem(last=False)
        return page


def _page(path: Path, file_hash: bytes, first: int) -> msgspec.Raw:
    with path.open("rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    return msgspec.Raw(msgspec.json.encode(page_to_json(data, file_hash, first, RECEIPTS_SHOWN)))
