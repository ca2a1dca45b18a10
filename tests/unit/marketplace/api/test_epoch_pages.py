"""Pages of large epochs: small ones, few of them, and a bounded memory of them."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from marketplace.api.public import epochs
from marketplace.api.public.epochs import SHOWN, _Pages
from tallystick.protocol.epochfile import ConsentSignature, EpochRows, encode_epoch
from tallystick.protocol.ids import Address, to_hex
from tallystick.protocol.rows import Row

MANY = 3_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch in which thousands of accounts were charged, each with a consent."""
    charges = tuple(Row(Address(to_hex(os.urandom(20))), 10**9, 1) for _ in range(MANY))
    consents = tuple(ConsentSignature(n, bytes(32), bytes(32)) for n in range(MANY))
    path = tmp_path_factory.mktemp("epochs") / "file"
    rows = EpochRows(1, Address("0x" + "11" * 20), 3, ((MANY, 0),), charges, consents)
    path.write_bytes(b"".join(encode_epoch(rows, [], 0)))
    return path


async def test_a_page_has_a_hundred_rows_however_many_there_are(file: Path) -> None:
    page = msgspec.json.decode(await _Pages().read(file, bytes(32), (MANY - SHOWN, 0)))
    assert (len(page["charges"]), page["charge_count"], page["first_row"]) == (SHOWN, MANY, MANY - SHOWN)
    assert page["charges"][-1]["consent"]["spent"] == str(MANY - 1)


async def test_pages_beyond_the_end_are_refused_and_nothing_is_remembered(file: Path) -> None:
    pages = _Pages()
    await pages.read(file, bytes(32), (0, 0))
    for starts in ((MANY, 0), (2**63 - SHOWN, 0), (0, SHOWN)):
        with pytest.raises(IndexError, match=f"up to {MANY} rows"):
            await pages.read(file, bytes(32), starts)
    assert list(pages._known) == [(bytes(32), (0, 0))]


async def test_what_is_remembered_has_a_bound_in_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = _Pages()
    size = len(bytes(await pages.read(file, bytes(32), (0, 0))))
    monkeypatch.setattr(epochs, "BYTES_KEPT", 3 * size + size // 2)
    starts = [(at, 0) for at in range(0, MANY, SHOWN)]
    await asyncio.gather(*(pages.read(file, bytes(32), start) for start in starts * 2))
    kept = sum(len(bytes(page)) for page in pages._known.values())
    assert pages._bytes == kept <= epochs.BYTES_KEPT
    assert len(pages._known) >= 2
