"""The long work on an epoch: the same by a process as by a thread, and nothing is lost if it fails."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.domain.errors import Broken, Unavailable
from marketplace.services.settlement import EpochProofs, Settlement, workshop
from marketplace.services.settlement.workshop import Workshop
from marketplace.storage.queries import settlement as queries
from tallystick.anvil import anvil_key
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.merkle import receipt_tree, verify
from tests.support.anvil import COORDINATOR, USD
from tests.support.settling import Town, town

ALICE, OPERATOR = 3, 6


@pytest.fixture
async def small_town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town("memory", tmp_path) as made:
        yield made


def with_process(made: Town) -> Settlement:
    """Return the town's settlement, whose every epoch is put together by a process."""
    key = anvil_key(COORDINATOR)
    return Settlement(
        made.database, made.driver.chain, made.transactions, made.clock, made.files, made.terms, key, many=0
    )


async def three_receipts(made: Town) -> int:
    """Let receipts mature, and the epoch end; return its number."""
    alice = await made.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await made.work(alice, OPERATOR, 3 * USD, parts=3)
    return await made.end_epoch()


async def test_a_process_of_its_own_puts_an_epoch_together_and_its_receipts_are_proved(
    small_town: Town,
) -> None:
    made = small_town
    number = await three_receipts(made)
    made.settlement = with_process(made)
    await made.settle()
    epoch = await made.epoch(number)
    assert epoch is not None
    assert (epoch.state, epoch.receipt_count) == ("closed", 3)
    file = decode_epoch(made.files.path(epoch.file_hash).read_bytes())
    assert (file.hash, receipt_tree(file.receipt_ids).root) == (epoch.file_hash, epoch.receipts_root)
    for proofs in (EpochProofs(made.database, made.files), EpochProofs(made.database)):
        for place, receipt_id in enumerate(file.receipt_ids):
            inclusion = await proofs.inclusion(number, receipt_id)
            assert inclusion is not None
            assert inclusion.proof.index == place
            assert verify(epoch.receipts_root, receipt_id, inclusion.proof)
    assert not list(made.files.folder.glob("*.new"))
    await made.check()


async def test_thread_and_process_make_the_same_file(small_town: Town) -> None:
    made = small_town
    number = await three_receipts(made)
    await made.settlement.step()
    epoch = await made.epoch(number)
    assert epoch is not None
    hashes = {
        await Workshop(made.database, made.files, made.terms.domain, many=many).publish(epoch)
        for many in (0, 1_000)
    }
    assert len(hashes) == 1


async def test_a_process_that_fails_or_is_ended_leaves_the_books_for_the_next_try(
    small_town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_town
    await three_receipts(made)
    made.settlement = with_process(made)
    failures = {"tests.support.no_such_module": Broken, "tests.support.ends_itself": Unavailable}
    for module, error in failures.items():
        with monkeypatch.context() as patched:
            patched.setattr(workshop, "_CHILD", module)
            with pytest.raises(error, match="works on the epoch"):
                await made.settlement.step()
        assert await made.database.read(queries.last_sealed) is None
    await made.settle()
    await made.check()


async def test_a_lost_crown_is_made_anew_and_a_damaged_one_is_not_believed(small_town: Town) -> None:
    made = small_town
    number = await three_receipts(made)
    await made.settle()
    epoch = await made.epoch(number)
    assert epoch is not None
    receipt_id = made.files.load(epoch.file_hash).receipt_ids[0]
    kept = made.files.folder / f"{epoch.receipts_root.hex()}.crown"
    right = kept.read_bytes()
    for damage in (None, b"", right[:-1], right.replace(epoch.receipts_root, bytes(32))):
        kept.unlink()
        if damage is not None:
            kept.write_bytes(damage)
        assert await EpochProofs(made.database, made.files).inclusion(number, receipt_id) is not None
        assert kept.read_bytes() == right
