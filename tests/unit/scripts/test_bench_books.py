"""The benchmark's books are what requests would have left: they add up, and they settle."""

from pathlib import Path

from marketplace.services.audit_books import audit_books
from scripts.benches.settlement_books import SPENT_EACH, Plan, filled_books, key, may_charge_ahead
from scripts.benches.settlement_pictures import draw
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import OWNER
from tests.support.chains import MEMORY_LEDGER, MemoryDriver, address
from tests.support.settling import town

CONSUMERS, RECEIPTS = 6, 60


async def test_books_made_in_bulk_add_up_and_settle_to_the_nano_dollar(tmp_path: Path) -> None:
    books = filled_books(tmp_path, Plan(RECEIPTS, CONSUMERS, Domain(31337, MEMORY_LEDGER), address(OWNER)))
    async with town("memory", tmp_path, books_url=f"sqlite+pysqlite:///{books}") as made:
        assert isinstance(made.driver, MemoryDriver)
        for number in range(CONSUMERS):
            right = 2 * SPENT_EACH if may_charge_ahead(number) else 0
            made.driver.memory.deposit(key("consumer", number).address, NanoUsd(2 * SPENT_EACH), right)
        await made.confirm()
        report = await made.database.read(audit_books)
        assert (report.findings, report.receipts) == ((), RECEIPTS)
        number = await made.end_epoch()
        await made.settle()
        epoch = await made.epoch(number)
        assert epoch is not None
        assert (epoch.state, epoch.receipt_count) == ("closed", RECEIPTS)
        file = decode_epoch(made.files.path(epoch.file_hash).read_bytes())
        assert len(file.rows.charges) >= CONSUMERS
        assert len(file.rows.consents) == CONSUMERS // 2


def test_a_picture_has_a_point_for_each_measurement(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "curve.svg"
    draw(path, "title", "across", "up", [(10.0, 1.0), (100.0, 9.5), (1_000.0, 120.0)], linear=True)
    picture = path.read_text()
    assert picture.count("<circle") == 3
    assert picture.count("<polyline") == 2
    assert ">120<" in picture
