"""Nobody fills the catalog: what does not get in leaves nothing, and one operator brings so much a day."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from marketplace.domain.ports.clock import ManualClock
from marketplace.domain.ports.link import NodeLost
from marketplace.services.catalog import Catalog, CatalogLimits, Fetch, NotAdmitted
from marketplace.services.newcomers import DAY_MS
from marketplace.storage.database import Database
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tallystick.protocol.frames import BlobRequest, ModelOffer, Offers
from tallystick.protocol.ids import ModelId
from tests.support.hubs import eventually
from tests.support.markets import a_market
from tests.support.nodes import ScriptedNode, an_offer, connected, operator_of

ONE, OTHER = operator_of(1), operator_of(2)


def a_tokenizer(word: str) -> bytes:
    return Tokenizer(models.WordLevel({word: 0, "world": 1}, unk_token=word)).to_str().encode()


def offer_of(blob: bytes, name: str = "tiny") -> ModelOffer:
    manifest = Manifest(
        name=name,
        family="causal-lm",
        tokenizer=sha256(blob).hexdigest() if blob else "bytes/v1",
        context_length=64,
        numerics="fp32",
    )
    raw = canonical_json(manifest)
    return an_offer(name=name, manifest=raw, model_id=model_id(raw))


def sends(blob: bytes) -> Fetch:
    async def fetch(_digest: bytes, _limit: int) -> bytes:
        return blob

    return fetch


class Place:
    """A catalog that can be opened again, on a clock that stands still."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = ManualClock()
        self.blobs = folder / "blobs"
        self._database = database

    async def open(self, **limits: int) -> Catalog:
        return await Catalog.open(self._database, self.blobs, self.clock, limits=CatalogLimits(**limits))

    def kept(self) -> set[str]:
        return {path.name for path in self.blobs.iterdir()} if self.blobs.is_dir() else set()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path / 'books.sqlite3'}")
    yield Place(database, tmp_path)
    await database.close()


async def test_a_node_that_sends_nothing_keeps_nobody_elses_model_out(tmp_path: Path) -> None:
    blob = a_tokenizer("hello")
    silent = ScriptedNode(1, models=(offer_of(a_tokenizer("evil"), "evil"),))
    silent._send_blob = lambda _sha256: asyncio.Event().wait()  # type: ignore[assignment,method-assign]
    good = ScriptedNode(2, models=(offer_of(blob, "good"),))
    good.blobs[sha256(blob).digest()] = blob
    async with a_market(tmp_path) as stand:
        stand.stakes.register(silent)
        async with connected(silent, stand.url):
            await silent.until(lambda frame: isinstance(frame, BlobRequest))
            async with stand.joined(good):
                assert [model.name for model in stand.catalog.models()] == ["good"]


async def test_a_tokenizer_that_does_not_work_does_not_stay(place: Place) -> None:
    catalog, junk = await place.open(), b"junk" * 1000
    with pytest.raises(NotAdmitted, match="not a tokenizer"):
        await catalog.admit(offer_of(junk), sends(junk), ONE)
    assert place.kept() == set()


async def test_a_model_that_does_not_get_in_takes_no_others_tokenizer_away(place: Place) -> None:
    catalog, blob = await place.open(new_per_operator=1), a_tokenizer("hello")
    first = await catalog.admit(offer_of(blob, "first"), sends(blob), ONE)
    with pytest.raises(NotAdmitted):
        await catalog.admit(offer_of(blob, "second"), sends(blob), ONE)
    second = await catalog.admit(offer_of(blob, "second"), sends(b"is not asked for"), OTHER)
    assert place.kept() == {sha256(blob).hexdigest()}
    assert second.tokenizer is first.tokenizer


async def test_what_a_killed_process_left_is_removed_at_the_next_start(place: Place) -> None:
    blob = a_tokenizer("hello")
    await (await place.open()).admit(offer_of(blob), sends(blob), ONE)
    for name in ("ab" * 32, "ab" * 32 + ".77.part", "notes.txt"):
        (place.blobs / name).write_bytes(b"left")
    again = await place.open()
    assert [model.name for model in again.models()] == ["tiny"]
    assert place.kept() == {sha256(blob).hexdigest(), "notes.txt"}


async def test_an_operator_offers_so_many_new_models_a_day(place: Place) -> None:
    catalog, asked = await place.open(new_per_operator=2), []

    async def fetch(digest: bytes, _limit: int) -> bytes:
        asked.append(digest)
        return b"junk"

    await catalog.admit(offer_of(b"", "one"), fetch, ONE)
    with pytest.raises(NotAdmitted, match="SHA-256"):
        await catalog.admit(offer_of(a_tokenizer("a")), fetch, ONE)
    with pytest.raises(NotAdmitted, match=rf"{ONE} has offered 2 new models in 24 hours, and 2 is the most"):
        await catalog.admit(offer_of(a_tokenizer("b")), fetch, ONE)
    assert len(asked) == 1
    assert (await catalog.admit(offer_of(b"", "one"), fetch, ONE)).name == "one"
    assert (await catalog.admit(offer_of(b"", "two"), fetch, OTHER)).name == "two"
    place.clock.advance(DAY_MS)
    assert (await catalog.admit(offer_of(b"", "three"), fetch, ONE)).name == "three"


async def test_a_file_that_never_came_does_not_count(place: Place) -> None:
    catalog, blob = await place.open(new_per_operator=1), a_tokenizer("hello")

    async def gone(_digest: bytes, _limit: int) -> bytes:
        raise NodeLost("gone")

    for _ in range(2):
        with pytest.raises(NodeLost):
            await catalog.admit(offer_of(blob), gone, ONE)
    assert (await catalog.admit(offer_of(blob), sends(blob), ONE)).name == "tiny"


async def test_the_catalogs_tokenizers_have_so_many_bytes_together(place: Place) -> None:
    first, second = a_tokenizer("hello"), a_tokenizer("other")
    room = len(first) + len(second) - 1
    catalog = await place.open(most_bytes=room)
    await catalog.admit(offer_of(first, "first"), sends(first), ONE)
    for full in (catalog, await place.open(most_bytes=room)):
        with pytest.raises(NotAdmitted, match=f"have {len(first)} bytes, this one has"):
            await full.admit(offer_of(second, "second"), sends(second), OTHER)
        assert place.kept() == {sha256(first).hexdigest()}
        await full.admit(offer_of(first, "again"), sends(first), OTHER)
    roomy = await place.open(most_bytes=room + 1)
    assert (await roomy.admit(offer_of(second, "second"), sends(second), OTHER)).name == "second"


async def test_one_operator_cannot_take_all_of_the_catalogs_bytes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = a_tokenizer("hello"), a_tokenizer("other")
    monkeypatch.setattr("marketplace.services.catalog.MAX_TOKENIZER_BYTES", len(first))
    catalog = await place.open(most_bytes=len(first) * 4)
    await catalog.admit(offer_of(first, "first"), sends(first), ONE)
    with pytest.raises(NotAdmitted, match=rf"tokenizers of {len(first)} bytes in 24 hours"):
        await catalog.admit(offer_of(second, "second"), sends(second), ONE)
    assert (await catalog.admit(offer_of(second, "second"), sends(second), OTHER)).name == "second"


async def test_a_node_that_offers_again_and_again_is_asked_for_one_file_at_a_time(tmp_path: Path) -> None:
    node = ScriptedNode(1, models=())
    node._send_blob = lambda _sha256: asyncio.Event().wait()  # type: ignore[assignment,method-assign]
    offers = [offer_of(a_tokenizer(f"w{number}"), f"m{number}") for number in range(20)]
    async with a_market(tmp_path) as stand, stand.joined(node) as connection:
        for offer in offers:
            await connection.send([Offers(models=(offer,))])
        await eventually(lambda: bool(stand.hub.serving(ModelId(offers[-1].model_id))))
        await node.until(lambda frame: isinstance(frame, BlobRequest))
        assert sum(isinstance(frame, BlobRequest) for frame in node.received) == 1
