"""A process that does one order of the workshop and ends; see there."""

import os
import sys
from pathlib import Path

import msgspec
from sqlalchemy.orm import Session

from marketplace.domain.errors import Broken
from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.workshop import Filed, Order, Planted, plant, stage_file
from marketplace.storage.engines import open_reader
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.settlement import Cut

NICENESS = 5
"""Requests come first."""
CACHE_KIB = 65_536
"""Receipts are read in the order of their ids, which is none to SQLite: what leads to them has to stay."""


def main() -> None:
    """Read an order, do it, write what was made."""
    os.nice(NICENESS)
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    engine = open_reader(order.books_url)
    with Session(engine, expire_on_commit=False, autoflush=False) as session:
        if engine.dialect.name == "sqlite":
            session.connection().exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
        made = _do(order, session)
    engine.dispose()
    sys.stdout.buffer.write(msgspec.msgpack.encode(made))


def _do(order: Order, session: Session) -> Planted | Filed:
    files = EpochFiles(Path(order.folder))
    if isinstance(order.what, Cut):
        return plant(session, files, order.what)
    epoch = queries.epoch(session, order.what)
    if epoch is None:
        raise Broken(f"there is no epoch {order.what} in the books")
    staged = stage_file(session, files, order.domain, epoch)
    return Filed(str(staged.path), staged.hash)


if __name__ == "__main__":
    main()
