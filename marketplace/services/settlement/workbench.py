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

NICENESS = 5
"""Requests come first."""


def main() -> None:
    """Read an order, do it, write what was made."""
    os.nice(NICENESS)
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    engine = open_reader(order.books_url)
    with Session(engine, expire_on_commit=False, autoflush=False) as session:
        made = _do(order, session)
    engine.dispose()
    sys.stdout.buffer.write(msgspec.msgpack.encode(made))


def _do(order: Order, session: Session) -> Planted | Filed:
    files = EpochFiles(Path(order.folder))
    if order.epoch is None:
        return plant(session, files)
    epoch = queries.epoch(session, order.epoch)
    if epoch is None:
        raise Broken(f"there is no epoch {order.epoch} in the books")
    staged = stage_file(session, files, order.domain, epoch)
    return Filed(str(staged.path), staged.hash)


if __name__ == "__main__":
    main()
