"""The committed vectors are what the code makes, and each can be used by who only has the file."""

import json
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch

from scripts import vectors
from tallystick.protocol import epochfile, epochjson, merkle, rows
from tallystick.protocol.frames import AnyFrame, BadFrame, decode_frames, encode_frames
from tallystick.protocol.ids import to_hex
from tallystick.protocol.keys import from_compact, recover
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.sampler import fast, philox


def load(name: str) -> Any:
    return json.loads((vectors.DIRECTORY / name).read_text(encoding="utf-8"))


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@pytest.mark.parametrize("name", sorted(vectors.FILES))
def test_the_committed_vectors_are_the_generated_ones(name: str) -> None:
    assert (vectors.DIRECTORY / name).read_text(encoding="utf-8") == vectors.render(name)


def test_every_file_of_vectors_is_generated() -> None:
    assert {path.name for path in vectors.DIRECTORY.iterdir()} == set(vectors.FILES)


@pytest.mark.parametrize("kind", ["receipts", "consents", "acknowledgements", "taken", "nodeConsents"])
def test_every_signature_recovers_to_its_signer_in_both_forms(kind: str) -> None:
    entries = load("eip712.json")[kind]
    assert entries
    for entry in entries:
        assert recover(raw(entry["digest"]), raw(entry["signature"])) == entry["signer"]
        assert from_compact(raw(entry["r"]), raw(entry["vs"])) == raw(entry["signature"])


def test_every_proof_verifies_under_its_root() -> None:
    for tree in load("merkle.json")["trees"]:
        assert len(tree["leaves"]) == len(tree["proofs"]) == tree["count"]
        for leaf, entry in zip(tree["leaves"], tree["proofs"], strict=True):
            proof = merkle.Proof(tree["count"], entry["index"], tuple(map(raw, entry["siblings"])))
            assert merkle.verify(raw(tree["root"]), raw(leaf), proof)


def test_every_word_unpacks_to_its_row() -> None:
    table = load("rows.json")
    columns = table["words"], table["accounts"], table["amounts"], table["flags"]
    for word, account, amount, flags in zip(*columns, strict=True):
        assert rows.unpack_row(raw(word)) == rows.Row(account, int(amount), flags)


def test_every_frame_decodes_to_its_rendering_and_back() -> None:
    table = load("frames.json")
    for entry in table["frames"]:
        (frame,) = decode_frames(raw(entry["message"]))
        assert vectors.plain(frame) == entry["frame"]
        assert to_hex(encode_frames([frame])) == entry["message"]
    assert [vectors.plain(frame) for frame in decode_frames(raw(table["several"]))] == [
        entry["frame"] for entry in table["frames"]
    ]


def test_the_vectors_have_a_frame_of_every_type() -> None:

    tags = {frame.__struct_config__.tag for frame in get_args(AnyFrame)}
    assert {entry["frame"]["t"] for entry in load("frames.json")["frames"]} == tags


def test_unknown_fields_are_tolerated_and_what_must_be_refused_is() -> None:
    table = load("frames.json")
    for entry in table["tolerated"]:
        assert [vectors.plain(frame) for frame in decode_frames(raw(entry["message"]))] == entry["as"]
    for entry in table["refused"]:
        with pytest.raises(BadFrame):
            decode_frames(raw(entry["message"]))


def test_torch_draws_the_noise_and_makes_the_choices_of_the_vectors() -> None:
    table = load("sampler.json")
    noise = table["noise"]
    state = fast.SamplerState(Parameters(), raw(table["stream"]["jobSeed"]))
    for position, words in zip(noise["positions"], noise["words"], strict=True):
        state.position = position
        assert fast.noise_words([state], torch.tensor([noise["ids"]]))[0].tolist() == words
    for entry in table["gumbel"]:
        assert fast.gumbel(torch.tensor([entry["word"]])).item() == pytest.approx(entry["g"], abs=1e-12)
        assert philox.gumbel(np.array([entry["word"]]))[0] == pytest.approx(entry["g"], abs=1e-12)
    for case in table["choices"]:
        assert choices_of(case) == case["tokens"], case["name"]


def choices_of(case: Any) -> list[int]:
    """The tokens that the batched sampler chooses for a case, its eight positions side by side."""
    parameters = msgspec.convert(case["parameters"], Parameters)
    generated = [token_id for token_id, count in case["generated"] for _ in range(count)]
    states = []
    for offset in range(len(case["tokens"])):
        state = fast.SamplerState(parameters, raw(case["jobSeed"]), generated)
        state.position += offset
        states.append(state)
    logits = torch.tensor(np.frombuffer(raw(case["logits"]), dtype="<f4").copy())
    return fast.sample_batch(logits.repeat(len(states), 1), states).tolist()


def test_every_epoch_file_decodes_to_its_rendering() -> None:
    for entry in load("epochfile.json")["files"]:
        file = epochfile.decode_epoch(raw(entry["data"]))
        assert to_hex(file.hash) == entry["hash"]
        assert epochjson.to_json(file) == entry["json"]
        assert to_hex(merkle.receipt_tree(file.receipt_ids).root) == entry["receiptsRoot"]
