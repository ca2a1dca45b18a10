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
from tallystick.protocol.epochfile import page_of
from tallystick.protocol.epochjson import page_to_json
from tallystick.protocol.ids import to_hex

LISTED: Final = 50
SHOWN: Final = 100
"""Rows of a kind, and receipts, in a page; pages begin at its multiples, so that there are few of them."""
MOST: Final = 2**63 - 1
BYTES_KEPT: Final = 8 * 1024 * 1024
"""What the remembered pages have together; one has up to 300 KB."""
READ_AT_ONCE: Final = 2
STARTS: Final = ("first_row", "first_receipt")
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
        starts = _start(request, STARTS[0]), _start(request, STARTS[1])
        row = await database.read(lambda session: published.find_epoch(session, number))
        path = None if row is None else find_file(row.file_hash)
        if row is None or path is None or not path.is_file():
            raise NotFound(f"Epoch {number} was not settled: nothing was due in it, or it is not over.")
        is_binary = BINARY in request.headers.get("accept", "")
        headers = _cache_headers(row, "" if is_binary else f"-{row.state}-{starts[0]}-{starts[1]}")
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if is_binary:
            return FileResponse(path, media_type=BINARY, headers=headers)
        try:
            content = await pages.read(path, row.file_hash, starts)
        except IndexError as error:
            raise NotFound(f"Epoch {number} has no such page: {error}.") from error
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


def _start(request: Request, name: str) -> int:
    """Return where the page begins that has the row, or receipt, which a query names."""
    asked = count(request.query_params.get(name, "0"), name, most=MOST)
    return asked - asked % SHOWN


_Starts = tuple[int, int]


class _Pages:
    """Pages of epoch files; the last few are remembered as they are sent."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, _Starts], msgspec.Raw] = OrderedDict()
        self._bytes = 0
        self._reading = asyncio.Semaphore(READ_AT_ONCE)

    async def read(self, path: Path, file_hash: bytes, starts: _Starts) -> msgspec.Raw:
        """Return the JSON of a page, by where its rows and its receipts start.

        Raises IndexError if the file has none there.
        """
        key = (file_hash, starts)
        async with self._reading:
            if key not in self._known:
                page = await asyncio.to_thread(_page, path, file_hash, starts)
                self._keep(key, page)
                return page
        self._known.move_to_end(key)
        return self._known[key]

    def _keep(self, key: tuple[bytes, _Starts], page: msgspec.Raw) -> None:
        earlier = self._known.pop(key, None)  # somebody else may have read it meanwhile
        self._bytes += len(bytes(page)) - (0 if earlier is None else len(bytes(earlier)))
        self._known[key] = page
        while self._bytes > BYTES_KEPT:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= len(bytes(oldest))


def _page(path: Path, file_hash: bytes, starts: _Starts) -> msgspec.Raw:
    with path.open("rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    page = page_to_json(page_of(data, *starts, SHOWN), file_hash)
    return msgspec.Raw(msgspec.json.encode(page | dict(zip(STARTS, starts, strict=True))))
