"""Old receipts leave the books, on every database; their epochs' files show and prove them as before."""

from pathlib import Path

import pytest

from marketplace.domain.errors import NotFound
from marketplace.services.audit_books import audit_books
from marketplace.services.pruning import prune
from marketplace.services.receipts import ReceiptBook
from marketplace.services.settlement import EpochProofs
from marketplace.storage.queries import settlement as queries
from tallystick.protocol.merkle import verify
from tallystick.protocol.receipts import receipt_charge
from tests.support.anvil import USD
from tests.support.settling import Town, town

ALICE, OPERATOR, RIVAL = 3, 6, 7


async def season(made: Town) -> tuple[int, int]:
    """Settle two epochs of a wallet's and a credit account's jobs; return their numbers."""
    alice = await made.consumer(ALICE, 50 * USD, authorized=50 * USD)
    dave = await made.on_credit("dave", 20 * USD)
    numbers = []
    for _ in range(2):
        for account_id in (alice, dave):
            await made.work(account_id, OPERATOR, 2 * USD, parts=2)
            await made.work(account_id, RIVAL, USD)
        numbers.append(await made.end_epoch())
        await made.settle()
    return numbers[0], numbers[1]


def a_book(made: Town) -> ReceiptBook:
    """Return who finds and proves receipts."""
    return ReceiptBook(made.database, EpochProofs(made.database, made.files), made.files)


async def ids_of(made: Town, epoch: int) -> list[bytes]:
    """Return an epoch's receipts that the books have."""
    row = await made.epoch(epoch)
    assert row is not None
    return await made.database.read(
        lambda session: list(queries.receipt_ids_of(session, queries.cut_of(session, row)))
    )


async def test_pruned_receipts_are_found_and_proved_from_the_file(books_url: str, tmp_path: Path) -> None:
    async with town("memory", tmp_path, books_url=books_url) as made:
        first, second = await season(made)
        before = await made.database.read(audit_books)
        ids, book = await ids_of(made, first), a_book(made)
        shown = {one: await book.find(one) for one in ids}
        later = await made.epoch(second)
        assert later is not None
        assert later.closed_at is not None
        pruned = await prune(made.database, made.files, later.closed_at)
        assert (pruned.receipts, pruned.jobs, pruned.epochs, pruned.kept) == (6, 4, 1, ())
        assert await ids_of(made, first) == []
        assert len(await ids_of(made, second)) == 6

        after = await made.database.read(audit_books)
        assert after.findings == ()
        assert (after.receipts, after.charged) == (before.receipts, before.charged)
        book = a_book(made)
        for receipt_id in ids:
            found, known = await book.find(receipt_id), shown[receipt_id]
            assert (found.signed, found.status) == (known.signed, "settled")
            assert (found.charge, found.fee, found.epoch) == (known.charge, known.fee, first)
            assert found.charge == receipt_charge(found.signed.receipt)
            inclusion = await book.inclusion(found)
            assert inclusion is not None
            assert verify(inclusion.root, receipt_id, inclusion.proof)
        with pytest.raises(NotFound):
            await book.find(b"\x07" * 32)


async def test_pruned_books_go_on_settling_and_add_up(books_url: str, tmp_path: Path) -> None:
    async with town("memory", tmp_path, books_url=books_url) as made:
        await season(made)
        everything = made.clock.now_ms() + 1
        assert (await prune(made.database, made.files, everything)).receipts == 12
        assert (await prune(made.database, made.files, everything)).receipts == 0
        alice = await made.consumer(ALICE, USD, authorized=50 * USD)
        await made.work(alice, OPERATOR, 3 * USD)
        await made.end_epoch()
        await made.settle()
        assert (await made.on_chain(ALICE)).spent == 9 * USD
        await made.check()


async def test_receipts_whose_file_is_damaged_or_that_are_not_settled_stay(
    books_url: str, tmp_path: Path
) -> None:
    async with town("memory", tmp_path, books_url=books_url) as made:
        first, second = await season(made)
        await made.work("dave", OPERATOR, USD)
        row = await made.epoch(first)
        assert row is not None
        path = made.files.path(row.file_hash)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        made.restart()
        pruned = await prune(made.database, made.files, made.clock.now_ms() + 1)
        assert [number for number, _ in pruned.kept] == [first]
        assert (pruned.receipts, pruned.jobs) == (6, 4)
        assert len(await ids_of(made, first)) == 6
        assert await ids_of(made, second) == []
        path.unlink()
        assert (
            "cannot be used" in (await prune(made.database, made.files, made.clock.now_ms() + 1)).kept[0][1]
        )
        await made.check()
