"""The catalog: what gets in, what stays out, what is there after a restart."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from marketplace.domain.errors import NotFound
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.catalog import Catalog, NotAdmitted, read_catalog_file
from marketplace.storage.database import Database
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tallystick.protocol.frames import ModelOffer
from tallystick.protocol.ids import to_hex
from tests.support.nodes import MANIFEST, MANIFEST_BYTES, MODEL_ID, an_offer

TOKENIZER = Tokenizer(models.WordLevel({"hello": 0, "world": 1}, unk_token="hello")).to_str().encode()

BOMB = (
    TOKENIZER.replace(b'"normalizer":null', b'"normalizer":%s')
    % b'{"type":"Replace","pattern":{"String":"a"},"content":"%s"}'
    % (b"b" * 2**24)
)
"""16 MB for every `a`: loads, but what it makes of a text fits no memory."""


def an_offer_of(manifest: Manifest) -> ModelOffer:
    raw = canonical_json(manifest)
    return an_offer(name=manifest.name, manifest=raw, model_id=model_id(raw))


def a_manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "name": "tiny",
        "family": "causal-lm",
        "tokenizer": sha256(TOKENIZER).hexdigest(),
        "context_length": 64,
        "numerics": "fp32",
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


class Node:
    """Gives one blob and counts how often it was asked."""

    def __init__(self, blob: bytes = b"") -> None:
        self.blob = blob
        self.asked = 0

    async def fetch(self, digest: bytes, limit: int) -> bytes:
        self.asked += 1
        assert len(self.blob) <= limit
        return self.blob


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(f"sqlite+pysqlite:///{tmp_path / 'books.sqlite3'}")
    yield database
    await database.close()


async def open_catalog(database: Database, tmp_path: Path, **options: object) -> Catalog:
    return await Catalog.open(database, tmp_path / "blobs", ManualClock(), **options)  # type: ignore[arg-type]


async def test_an_offered_model_can_be_asked_for_by_name_and_alias(
    database: Database, tmp_path: Path
) -> None:
    catalog = await open_catalog(database, tmp_path, aliases={"gpt-x": "echo"})
    await catalog.admit(an_offer(), Node().fetch)
    assert catalog.resolve("echo").id == MODEL_ID
    assert catalog.resolve("gpt-x").id == MODEL_ID
    assert catalog.by_id(MODEL_ID) is catalog.resolve("echo")
    assert [model.name for model in catalog.models()] == ["echo"]
    prompt = await catalog.resolve("echo").prompts.chat([{"role": "user", "content": "hi"}])
    assert prompt.text.startswith("user: hi")


async def test_an_unknown_name_is_not_found_with_openais_code(database: Database, tmp_path: Path) -> None:
    catalog = await open_catalog(database, tmp_path)
    with pytest.raises(NotFound, match="The model `nope` does not exist") as refused:
        catalog.resolve("nope")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


async def test_a_tokenizer_is_fetched_once_checked_and_kept(database: Database, tmp_path: Path) -> None:
    node, offer = Node(TOKENIZER), an_offer_of(a_manifest())
    catalog = await open_catalog(database, tmp_path)
    model = await catalog.admit(offer, node.fetch)
    assert model.tokenizer is not None
    assert model.tokenizer.decode([0]) == "hello"
    again = await open_catalog(database, tmp_path)
    assert again.resolve("tiny").tokenizer is not None
    await again.admit(offer, node.fetch)
    assert node.asked == 1


async def test_a_damaged_blob_hides_the_model_until_a_node_offers_it_again(
    database: Database, tmp_path: Path
) -> None:
    node, offer = Node(TOKENIZER), an_offer_of(a_manifest())
    await (await open_catalog(database, tmp_path)).admit(offer, node.fetch)
    (blob,) = (tmp_path / "blobs").iterdir()
    blob.write_bytes(b"rot")
    catalog = await open_catalog(database, tmp_path)
    with pytest.raises(NotFound):
        catalog.resolve("tiny")
    await catalog.admit(offer, node.fetch)
    assert catalog.resolve("tiny").name == "tiny"
    assert node.asked == 2


@pytest.mark.parametrize(
    ("offer", "blob", "reason"),
    [
        (an_offer(model_id=bytes(32)), b"", "does not have the id"),
        (an_offer(manifest=b"{}", model_id=model_id(b"{}")), b"", "not a manifest"),
        (an_offer_of(a_manifest()), b"{}", "SHA-256"),
        (an_offer_of(a_manifest(tokenizer=sha256(b"{}").hexdigest())), b"{}", "not a tokenizer"),
        (an_offer_of(a_manifest(tokenizer=sha256(BOMB).hexdigest())), BOMB, "too much time or memory"),
    ],
)
async def test_what_is_not_sound_stays_out(
    database: Database, tmp_path: Path, offer: ModelOffer, blob: bytes, reason: str
) -> None:
    catalog = await open_catalog(database, tmp_path)
    with pytest.raises(NotAdmitted, match=reason):
        await catalog.admit(offer, Node(blob).fetch)
    assert list(catalog.models()) == []
    assert list((await open_catalog(database, tmp_path)).models()) == []


async def test_a_second_model_of_the_same_name_gets_its_id_into_its_name(
    database: Database, tmp_path: Path
) -> None:
    catalog = await open_catalog(database, tmp_path)
    await catalog.admit(an_offer(), Node().fetch)
    other = a_manifest(name="echo", tokenizer="bytes/v1")
    second = await catalog.admit(an_offer_of(other), Node().fetch)
    assert second.name == f"echo@{second.id.hex()[:12]}"
    assert catalog.resolve("echo").id == MODEL_ID
    again = await open_catalog(database, tmp_path)
    assert again.resolve(second.name).id == second.id


async def test_an_opaque_model_has_no_tokenizer(database: Database, tmp_path: Path) -> None:
    catalog = await open_catalog(database, tmp_path)
    model = await catalog.admit(an_offer_of(a_manifest(tokenizer="", numerics="opaque")), Node().fetch)
    assert model.tokenizer is None


async def test_a_closed_catalog_admits_what_its_file_lists(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "catalog.json"
    file.write_text(json.dumps({"models": [to_hex(MODEL_ID)]}))
    catalog = await open_catalog(database, tmp_path, only=read_catalog_file(file))
    await catalog.admit(an_offer(), Node().fetch)
    with pytest.raises(NotAdmitted, match="closed"):
        await catalog.admit(an_offer_of(a_manifest(tokenizer="bytes/v1")), Node().fetch)


async def test_a_catalog_file_may_list_manifests(tmp_path: Path) -> None:
    (tmp_path / "echo.json").write_bytes(MANIFEST_BYTES)
    file = tmp_path / "catalog.json"
    file.write_text(json.dumps({"models": ["echo.json"]}))
    assert read_catalog_file(file) == frozenset({model_id(canonical_json(MANIFEST))})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"models": [1]}', '{"models": ["0x12"]}', '{"models": ["gone.json"]}']
)
async def test_a_broken_catalog_file_is_said_to_be_broken(tmp_path: Path, text: str) -> None:
    file = tmp_path / "catalog.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="catalog file"):
        read_catalog_file(file)
