"""A crash at the fail points that need more than load; the next life goes on where the last one was.

The crash is an exception that nothing catches, and everything in memory is forgotten with it.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from marketplace.domain.ports.clock import ManualClock
from marketplace.services.catalog import Catalog
from marketplace.storage import failpoints
from marketplace.storage.database import Database
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tests.support.anvil import LONG_TERMS, USD
from tests.support.chains import address
from tests.support.kills import KILLED_ELSEWHERE, KILLED_UNDER_LOAD
from tests.support.nodes import an_offer
from tests.support.settling import Town, town

ALICE, BOB, OPERATOR = 3, 4, 6


class Crash(BaseException):
    """The end of a process."""


@contextmanager
def crashing_at(point: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise Crash where the process would be killed; the block must get there."""

    def kill(_pid: int, _signal: int) -> None:
        raise Crash(point)

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", kill)
        failpoints.arm(point)
        try:
            with pytest.raises(Crash):
                yield
        finally:
            failpoints.arm("")


@pytest.fixture
async def small_town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town("memory", tmp_path) as made:
        yield made


async def test_killed_after_a_reorganisation_was_undone(
    small_town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_town
    await made.consumer(ALICE, 10 * USD)
    await made.driver.mine(3)
    await made.driver.deposit(BOB, 5 * USD)
    await made.confirm()
    await made.driver.reorganise(4)
    with crashing_at("deposits.rewound", monkeypatch):
        await made.watcher.poll()
    made.restart()
    await made.driver.deposit(BOB, 2 * USD)
    await made.check()
    assert (await made.account(address(BOB))).balance == 2 * USD


async def test_killed_after_rows_were_planned_anew(small_town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_town
    for who in (ALICE, BOB):
        await made.work(await made.consumer(who, 10 * USD, authorized=10 * USD), OPERATOR, 2 * USD)
    await made.driver.request_withdrawal(BOB, 10 * USD)
    await made.driver.wait(LONG_TERMS.thaw)
    made.clock.advance(LONG_TERMS.thaw * 1000)
    await made.end_epoch()
    for _ in range(2):
        assert await made.settlement.step()
    await made.driver.withdraw(BOB)
    with crashing_at("settlement.amended", monkeypatch):
        await made.settle()
    made.restart()
    await made.settle()
    assert (await made.on_chain(ALICE)).spent == 2 * USD
    assert (await made.on_chain(BOB)).spent == 0
    assert (await made.on_chain(OPERATOR)).earned == 3_800_000_000
    assert (await made.driver.chain.ledger()).pool == 0


@pytest.mark.parametrize("point", ["transactions.stored_again", "transactions.bid_more"])
async def test_killed_while_bidding_more(
    small_town: Town, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_town
    await made.work(await made.consumer(ALICE, 10 * USD, authorized=10 * USD), OPERATOR, 2 * USD)
    await made.end_epoch()
    nonce = await made.driver.sender.used_nonces()
    await made.driver.hold_back(True)
    for _ in range(4):
        await made.settlement.step()
    made.clock.advance(61_000)
    with crashing_at(point, monkeypatch):
        for _ in range(2):
            await made.settlement.step()
    made.restart()
    await made.settlement.step()
    await made.driver.hold_back(False)
    await made.settle()
    assert await made.driver.sender.used_nonces() == nonce + 1
    assert (await made.on_chain(ALICE)).spent == 2 * USD
    await made.check()


@pytest.mark.parametrize("point", ["catalog.file_staged", "catalog.file_stored"])
async def test_killed_while_a_model_comes_in(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = Tokenizer(models.WordLevel({"hello": 0, "world": 1}, unk_token="hello")).to_str().encode()
    manifest = canonical_json(
        Manifest(
            name="tiny",
            family="causal-lm",
            tokenizer=sha256(blob).hexdigest(),
            context_length=64,
            numerics="fp32",
        )
    )
    offer = an_offer(name="tiny", manifest=manifest, model_id=model_id(manifest))

    async def fetch(_digest: bytes, _limit: int) -> bytes:
        return blob

    database = await Database.open(f"sqlite+pysqlite:///{tmp_path}/books.sqlite")
    first = await Catalog.open(database, tmp_path / "blobs", ManualClock())
    with crashing_at(point, monkeypatch):
        await first.admit(offer, fetch)
    first.close()
    second = await Catalog.open(database, tmp_path / "blobs", ManualClock())
    assert second.models() == []
    admitted = await second.admit(offer, fetch)
    assert admitted.tokenizer is not None
    assert admitted.tokenizer.decode([1]) == "world"
    second.close()
    third = await Catalog.open(database, tmp_path / "blobs", ManualClock())
    assert [model.name for model in third.models()] == ["tiny"]
    third.close()
    await database.close()


def test_a_test_kills_at_every_fail_point() -> None:
    under_load = {point.partition(":")[0] for point in KILLED_UNDER_LOAD}
    assert under_load | set(KILLED_ELSEWHERE) == failpoints.FAILPOINTS.keys()
