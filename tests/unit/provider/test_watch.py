"""The provider's own check of every closed epoch: what it must notice, and what it must not cry about."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provider.evidence import Cheque, Evidence, Kept
from provider.wallet import operator_of
from provider.watch import LOOKS_UNTIL_WITHHELD, Closed, NotPublished, Watch, cashable, examine
from tallystick.protocol.epochfile import EpochReceipt, EpochRows, encode_epoch
from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.merkle import receipt_tree
from tallystick.protocol.money import NanoUsd
from tests.support.agents import a_cheque, a_taken
from tests.support.chains import address
from tests.support.epochs import OPERATOR, Published, published_epoch
from tests.support.nodes import DOMAIN
from tests.support.nodes import operator_of as number_to_operator
from tests.unit.provider.test_evidence import a_signed

EPOCH = 6


def a_kept(number: int, taken_epoch: int | None = EPOCH) -> Kept:
    """Return a receipt of ours that was taken for an epoch."""
    receipt_id, signed = a_signed(number)
    return Kept(
        id=receipt_id,
        signed=signed,
        stop="",
        signed_at=0,
        charge=NanoUsd(36_000),
        earning=NanoUsd(34_200),
        state="taken",
        taken_epoch=taken_epoch,
        settled_epoch=None,
        reason=None,
    )


def an_epoch(*kept: Kept) -> tuple[Closed, bytes]:
    """Return an epoch that settles these receipts, as the chain closed it, and its file."""
    ordered = sorted(kept, key=lambda one: one.id)
    rows = EpochRows(chain_id=DOMAIN.chain_id, ledger=DOMAIN.contract, epoch=EPOCH)
    data = b"".join(encode_epoch(rows, [EpochReceipt(one.signed) for one in ordered], len(ordered)))
    root = receipt_tree([one.id for one in ordered]).root
    return Closed(EPOCH, root, len(ordered), keccak256(data)), data


def _cheque(earned: int, epoch: int = EPOCH) -> Cheque:
    return Cheque(number_to_operator(1), epoch, NanoUsd(earned), b"")


def test_an_epoch_with_all_our_work_has_no_findings() -> None:
    ours, others = [a_kept(1), a_kept(2)], a_kept(3)
    closed, data = an_epoch(*ours, others)
    outcome = examine(closed, data, ours, NanoUsd(100), [_cheque(100)])
    assert outcome.findings == ()
    assert set(outcome.settled) == {one.id for one in ours}


def test_another_file_than_the_chain_names_is_a_finding() -> None:
    closed, data = an_epoch(a_kept(1))
    outcome = examine(closed, data + b"\0", [], NanoUsd(0), [])
    assert outcome.settled == ()
    assert "not the one whose hash is on the chain" in outcome.findings[0]


def test_a_file_that_cannot_be_read_is_a_finding() -> None:
    garbage = b"no epoch"
    outcome = examine(Closed(EPOCH, bytes(32), 0, keccak256(garbage)), garbage, [], NanoUsd(0), [])
    assert "cannot be read" in outcome.findings[0]


@pytest.mark.parametrize("change", [{"root": b"\x01" * 32}, {"receipt_count": 2}])
def test_receipts_that_are_not_under_the_root_are_a_finding(change: dict[str, Any]) -> None:
    closed, data = an_epoch(a_kept(1))
    outcome = examine(dataclasses.replace(closed, **change), data, [], NanoUsd(0), [])
    assert "not those under its root" in outcome.findings[0]


def test_a_receipt_that_was_promised_and_is_not_there_is_a_finding() -> None:
    closed, data = an_epoch(a_kept(1))
    outcome = examine(closed, data, [a_kept(1), a_kept(2, EPOCH), a_kept(3, EPOCH - 1)], NanoUsd(0), [])
    assert len(outcome.findings) == 2
    assert all("is closed, and is not settled" in finding for finding in outcome.findings)


def test_a_receipt_that_is_promised_for_later_is_none() -> None:
    closed, data = an_epoch(a_kept(1))
    assert examine(closed, data, [a_kept(2, EPOCH + 1), a_kept(3, None)], NanoUsd(0), []).findings == ()


@pytest.mark.parametrize(
    ("cheques", "short"),
    [
        ([_cheque(150)], "0.00000005"),
        ([_cheque(150, EPOCH + 1)], None),
        ([_cheque(90), _cheque(150, EPOCH + 1)], None),
        ([_cheque(90), _cheque(120, EPOCH - 1)], "0.00000002"),
        ([], None),
    ],
)
def test_less_credit_than_a_due_cheque_says_is_a_finding(cheques: list[Cheque], short: str | None) -> None:
    closed, data = an_epoch(a_kept(1))
    findings = examine(closed, data, [], NanoUsd(100), cheques).findings
    assert len(findings) == (short is not None)
    assert all(f"${short} from its bond with: tallystick provider cash" in finding for finding in findings)


def test_the_largest_due_cheque_is_the_one_to_cash() -> None:
    cheques = [_cheque(5, 3), _cheque(9, 4), _cheque(20, 5)]
    assert cashable(cheques, 4) == cheques[1]
    assert cashable(cheques, 2) is None


async def test_work_whose_promise_was_lost_on_its_way_is_not_missed_when_that_comes(tmp_path: Path) -> None:
    """The coordinator took and settled a receipt; the agent was away, and learns of it after its look."""
    kept = a_kept(1)
    closed, data = an_epoch(kept)
    evidence = Evidence(tmp_path / "evidence.sqlite")
    await evidence.keep(kept.id, kept.signed, "")
    for settled in examine(closed, data, evidence.unsettled(), NanoUsd(0), []).settled:
        await evidence.settled(settled, closed.epoch)
    await evidence.taken(a_taken(kept.id, EPOCH))
    other, other_data = an_epoch(a_kept(2))
    later = dataclasses.replace(other, epoch=EPOCH + 1)
    assert examine(later, other_data, evidence.unsettled(), NanoUsd(0), []).findings == ()
    evidence.close()


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Published]:
    """A settled epoch on Anvil."""
    async with published_epoch(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
async def evidence(tmp_path: Path, stand: Published) -> AsyncIterator[Evidence]:
    """Our half: two of the epoch's three receipts, and a look at an epoch before it."""
    store = Evidence(tmp_path / "evidence.sqlite")
    from tallystick.protocol.epochfile import decode_epoch

    file = decode_epoch(await stand.file())
    for index, receipt_id in enumerate(file.receipt_ids[:2]):
        await store.keep(ReceiptId(receipt_id), file.receipt(index).signed, "")
        await store.taken(a_taken(receipt_id, stand.epoch))
    await store.watched(-1, 0, "good", [])
    yield store
    await asyncio.sleep(0)
    store.close()


@pytest.mark.anvil
async def test_a_real_epoch_is_checked_once_and_our_receipts_are_found(
    stand: Published, evidence: Evidence
) -> None:
    await evidence.acknowledged(a_cheque(address(OPERATOR), 4_750_000_000, stand.epoch))
    watch = Watch(stand.provider(), evidence)
    async with operator_of(stand.provider()) as operator, aiohttp.ClientSession() as http:
        (outcome,) = await watch.check_new(operator, http)
        assert outcome.findings == ()
        assert len(outcome.settled) == 2
        assert evidence.unsettled() == []
        assert evidence.by_epoch()[0][:2] == (stand.epoch, 2)
        assert await watch.check_new(operator, http) == []
        assert await Watch(stand.provider(), evidence).check_new(operator, http) == []


@pytest.mark.anvil
async def test_an_epoch_that_is_not_published_yet_is_looked_at_again(
    stand: Published, evidence: Evidence
) -> None:
    watch = Watch(stand.provider(), evidence)
    stand.status = 503
    async with operator_of(stand.provider()) as operator, aiohttp.ClientSession() as http:
        for _ in range(2):
            with pytest.raises(NotPublished, match="answers 503"):
                await watch.check_new(operator, http)
        stand.status = 200
        assert len(await watch.check_new(operator, http)) == 1
    assert evidence.findings() == []


@pytest.mark.anvil
async def test_a_file_that_is_withheld_is_a_finding_in_the_end_and_hides_no_short_payment(
    stand: Published, evidence: Evidence
) -> None:
    await evidence.acknowledged(a_cheque(address(OPERATOR), 9_000_000_000, stand.epoch))
    watch = Watch(stand.provider(), evidence)
    stand.status = 503
    async with operator_of(stand.provider()) as operator, aiohttp.ClientSession() as http:
        for _ in range(LOOKS_UNTIL_WITHHELD - 1):
            with pytest.raises(NotPublished):
                await watch.check_new(operator, http)
        assert evidence.findings() == []
        (outcome,) = await watch.check_new(operator, http)
    assert "does not give its file" in outcome.findings[0]
    assert "tallystick provider cash" in outcome.findings[1]
    assert len(evidence.findings()) == 2


@pytest.mark.anvil
async def test_a_changed_file_and_a_short_payment_are_noticed_and_kept(
    stand: Published, evidence: Evidence
) -> None:
    await evidence.acknowledged(a_cheque(address(OPERATOR), 9_000_000_000, stand.epoch))
    stand.change = lambda data: data[:-1] + b"\1"
    async with operator_of(stand.provider()) as operator, aiohttp.ClientSession() as http:
        (outcome,) = await Watch(stand.provider(), evidence).check_new(operator, http)
    assert len(outcome.findings) == 2
    assert [epoch for epoch, _ in evidence.findings()] == [stand.epoch, stand.epoch]
    assert evidence.unsettled() != []
