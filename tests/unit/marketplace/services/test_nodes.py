"""Around the nodes: models come in with their tokenizers, records outlive connections."""

from hashlib import sha256
from pathlib import Path

from sqlmodel import select
from tokenizers import Tokenizer, models

from marketplace.storage.tables import NodeRow
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tallystick.protocol.frames import Heartbeat, Offers
from tests.support.hubs import eventually
from tests.support.markets import Stand, a_market
from tests.support.nodes import ScriptedNode, an_offer

TOKENIZER = Tokenizer(models.WordLevel({f"w{n}": n for n in range(60_000)}, unk_token="w0")).to_str().encode()
MANIFEST = canonical_json(
    Manifest(
        name="words",
        family="causal-lm",
        tokenizer=sha256(TOKENIZER).hexdigest(),
        context_length=64,
        numerics="fp32",
    )
)
WORDS = an_offer(name="words", manifest=MANIFEST, model_id=model_id(MANIFEST))


async def rows(stand: Stand) -> list[NodeRow]:
    return list(await stand.database.read(lambda session: session.scalars(select(NodeRow)).all()))


async def test_a_models_tokenizer_is_asked_of_the_node_that_offers_it(tmp_path: Path) -> None:
    node = ScriptedNode(1, models=(WORDS,))
    node.blobs = {sha256(TOKENIZER).digest(): TOKENIZER}
    async with a_market(tmp_path) as stand, stand.joined(node):
        tokenizer = stand.catalog.resolve("words").tokenizer
        assert tokenizer is not None
        assert tokenizer.decode([59_999]) == "w59999"
        assert (tmp_path / "blobs" / sha256(TOKENIZER).hexdigest()).read_bytes() == TOKENIZER


async def test_a_node_without_the_tokenizer_leaves_the_model_to_the_next(tmp_path: Path) -> None:
    poor, rich = ScriptedNode(1), ScriptedNode(2, models=(WORDS,))
    rich.blobs = {sha256(TOKENIZER).digest(): TOKENIZER}
    async with a_market(tmp_path) as stand, stand.joined(poor) as connection:
        await connection.send([Offers(models=(WORDS,))])
        await eventually(lambda: bool(stand.hub.serving(WORDS.model_id)))  # type: ignore[arg-type]
        assert [model.name for model in stand.catalog.models()] == ["echo"]
        beat = await poor.until(lambda frame: isinstance(frame, Heartbeat) and bool(frame.notice))
        assert beat.notice == f"'words' is not served here: {poor.address}: it does not have the file"  # type: ignore[union-attr]
        async with stand.joined(rich):
            assert stand.catalog.resolve("words").name == "words"


async def test_a_model_offered_later_can_be_asked_for(tmp_path: Path) -> None:
    node = ScriptedNode(1, models=())
    async with a_market(tmp_path) as stand, stand.joined(node) as connection:
        assert stand.catalog.models() == []
        await connection.send([Offers(models=(an_offer(),))])
        await eventually(lambda: len(stand.catalog.models()) == 1)
        text, _, _ = await stand.ask()
        assert text == "hello"


async def test_a_nodes_record_is_stored_when_it_leaves(tmp_path: Path) -> None:
    node = ScriptedNode(1, region="eu")
    async with a_market(tmp_path) as stand:
        for jobs in (2, 1):
            async with stand.joined(node):
                for _ in range(jobs):
                    await stand.ask()
        await eventually(lambda: not stand.nodes.is_busy)
        (row,) = await rows(stand)
        assert (row.address, row.operator, row.region) == (node.address, node.operator, "eu")
        assert (row.jobs_done, row.jobs_failed) == (3, 0)
