"""What nodes and coordinators send each other, and what is published: frames, receipts, epoch files, rows."""

import json
from functools import cache
from typing import Any

import msgspec

from marketplace.transport.handshake import Rejected, check_offers, is_signed
from scripts import vector_samples as samples
from tallystick.protocol import frames
from tallystick.protocol.commitments import hello_digest, parameters_hash, prompt_commitment
from tallystick.protocol.eip712 import acknowledgement_digest, consent_digest, receipt_digest, taken_digest
from tallystick.protocol.epochfile import BadEpochFile, decode_epoch, encode_epoch
from tallystick.protocol.epochjson import to_json
from tallystick.protocol.frames import AnyFrame, BadFrame, decode_frames, encode_frames
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.keys import BadSignature, from_compact, recover, to_compact
from tallystick.protocol.merkle import Proof, receipt_tree, verify
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import receipt_charge
from tallystick.protocol.rendering import BadRendering, receipt_from_json, receipt_to_json
from tallystick.protocol.rows import pack_row, unpack_row
from tests.fuzz.driver import Parser
from tests.fuzz.mutation import Mutator, to_msgpack

LEDGER = samples.LEDGER


@cache
def _messages() -> tuple[bytes, ...]:
    both = [*samples.handshake_frames(), *samples.job_frames()]
    return (*(encode_frames([frame]) for frame in both), encode_frames(both))


def a_message(mutator: Mutator) -> bytes:
    """Return a damaged websocket message, of either side."""
    message = mutator.chance.choice(_messages())
    if mutator.chance.random() < 0.5:
        return mutator.bytes_of(message, _messages())
    return to_msgpack(mutator.tree_of(msgspec.msgpack.decode(message)))


def read_message(message: bytes) -> bool:
    """Decode, and do at once what each side does with what it got, before anything else is known of it."""
    try:
        received = decode_frames(message)
    except BadFrame:
        return False
    assert decode_frames(encode_frames(received)) == received
    for frame in received:
        _take(frame)
    return True


def _take(frame: AnyFrame) -> None:
    match frame:
        case frames.Hello():
            is_signed(frame, samples.challenge())
            _offers(frame.models)
        case frames.Offers():
            _offers(frame.models)
        case frames.Challenge():
            hello_digest(frame)
        case frames.Finished():
            receipt_id = receipt_digest(LEDGER, frame.receipt.receipt)
            _signer(receipt_id, frame.receipt.signature)
            assert receipt_charge(frame.receipt.receipt) >= 0
        case frames.Job():
            parameters_hash(frame.parameters)
            prompt_commitment(frame.salt, frame.prompt_ids)
        case frames.ReceiptTaken():
            _signer(taken_digest(LEDGER, ReceiptId(frame.receipt_id), frame.epoch), frame.signature)
        case frames.Acknowledged():
            digest = acknowledgement_digest(LEDGER, frame.account, frame.epoch, NanoUsd(frame.earned))
            _signer(digest, frame.signature)
        case _:
            pass


def _offers(models: tuple[frames.ModelOffer, ...]) -> None:
    try:
        check_offers(models)
    except Rejected as rejected:
        encode_frames([rejected.goodbye])


def _signer(digest: bytes, signature: bytes) -> None:
    try:
        recover(digest, signature)
    except BadSignature:
        return


@cache
def _rendered() -> Any:
    signed = [item.signed for item in samples.epoch()[1]]
    return [json.loads(json.dumps(receipt_to_json(one))) for one in signed]


def a_rendered_receipt(mutator: Mutator) -> bytes:
    """Return a damaged receipt in JSON, as `/v1/receipts` gives it."""
    return mutator.json_of(mutator.chance.choice(_rendered()))


def read_rendered_receipt(document: bytes) -> bool:
    """Read a receipt's JSON as the SDK does; JSON that is none is refused before."""
    try:
        given = json.loads(document)
    except (ValueError, RecursionError):
        return False
    try:
        signed = receipt_from_json(given)
    except BadRendering:
        return False
    again = receipt_to_json(signed)
    assert receipt_from_json(json.loads(json.dumps(again))) == signed
    _signer(receipt_digest(LEDGER, signed.receipt), signed.signature)
    return True


@cache
def _epochs() -> tuple[bytes, ...]:
    made = (samples.epoch(), samples.empty_epoch())
    return tuple(b"".join(encode_epoch(rows, receipts, len(receipts))) for rows, receipts in made)


def an_epoch_file(mutator: Mutator) -> bytes:
    """Return a damaged epoch file; often its counts say what is not there, or its parts come from another."""
    data = mutator.chance.choice(_epochs())
    if mutator.chance.random() < 0.3:
        # A count in the header (see the layout): some too many, or a number of another size.
        place = 54 + 4 * mutator.chance.randrange(7)
        step = mutator.chance.choice((1, 2, 255, 2**31, 2**32 - 1))
        count = (int.from_bytes(data[place : place + 4], "big") + step) % 2**32
        data = data[:place] + count.to_bytes(4, "big") + data[place + 4 :]
        return data if mutator.chance.random() < 0.5 else mutator.bytes_of(data, _epochs())
    return mutator.bytes_of(data, _epochs())


def read_epoch_file(data: bytes) -> bool:
    """Decode; what is taken is the one encoding of its content, and can be shown."""
    try:
        file = decode_epoch(data)
    except BadEpochFile:
        return False
    receipts = list(file.receipts())
    assert b"".join(encode_epoch(file.rows, receipts, len(receipts))) == data
    json.dumps(to_json(file))
    return True


def a_word(mutator: Mutator) -> tuple[bytes, bytes]:
    """Return a damaged row of a settlement and a damaged signature."""
    row = pack_row(mutator.chance.choice(samples.epoch()[0].charges))
    signature = samples.epoch()[1][0].signed.signature
    return mutator.bytes_of(row), mutator.bytes_of(signature)


def read_word(words: tuple[bytes, bytes]) -> bool:
    """Read a row and a signature, in both of its forms; a taken one has one encoding."""
    word, signature = words
    taken = False
    try:
        assert pack_row(unpack_row(word)) == word
        taken = True
    except ValueError:
        pass
    try:
        recover(consent_digest(LEDGER, samples.CONSUMER.address, NanoUsd(1)), signature)
        assert from_compact(*to_compact(signature)) == signature
        taken = True
    except BadSignature:
        pass
    return taken


@cache
def _tree() -> tuple[bytes, Any]:
    tree = receipt_tree([samples.bytes32(f"receipt {number}") for number in range(11)])
    proof = tree.proof(4)
    return tree.root, {"count": proof.count, "index": proof.index, "siblings": list(proof.siblings)}


def a_proof(mutator: Mutator) -> Proof:
    """Return a damaged proof of a receipt's place, of the types that its reader makes."""
    tree = mutator.tree_of(_tree()[1])
    tree = tree if isinstance(tree, dict) else {}
    count, index = (tree.get(name) if type(tree.get(name)) is int else 0 for name in ("count", "index"))
    siblings = tree.get("siblings")
    kept = [one for one in siblings if isinstance(one, bytes)] if isinstance(siblings, list) else []
    return Proof(count, index, tuple(kept))


def read_proof(proof: Proof) -> bool:
    """Verify; only the one proof of the receipt's place is right."""
    root, right = _tree()
    held = verify(root, samples.bytes32("receipt 4"), proof)
    given = {"count": proof.count, "index": proof.index, "siblings": list(proof.siblings)}
    assert held == (given == right)
    return held


PARSERS = (
    Parser("frames", a_message, read_message, 30),
    Parser("receipt JSON", a_rendered_receipt, read_rendered_receipt, 10),
    Parser("epoch file", an_epoch_file, read_epoch_file, 15),
    Parser("rows and signatures", a_word, read_word, 5),
    Parser("proofs", a_proof, read_proof, 3),
)
