#!/usr/bin/env python
"""Rewrites tallystick/protocol/vectors/*.json: the same bytes on every machine, to hold every language to.

Hashes and byte strings are `0x…`. Numbers that may exceed 2^53 are decimal strings, the others JSON numbers.
Fields have the names of the EIP-712 types.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
import numpy as np
from numpy.typing import NDArray

from scripts import vector_samples as samples
from tallystick.protocol import commitments, eip712, epochfile, epochjson, frames, merkle, rows
from tallystick.protocol.ids import Address, ModelId, ReceiptId, to_hex
from tallystick.protocol.keys import SigningKey, to_compact
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.sampler import philox
from tallystick.protocol.sampler.reference import choose

DIRECTORY = Path(__file__).resolve().parents[1] / "tallystick" / "protocol" / "vectors"
Json = dict[str, Any]


def rendered(struct: msgspec.Struct, type_text: str) -> Json:
    """Return the fields of a signed struct under the names of its EIP-712 type."""
    out: Json = {}
    for field in type_text.partition("(")[2].rstrip(")").split(","):
        kind, name = field.split(" ")
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        value = getattr(struct, snake)
        out[name] = to_hex(value) if kind == "bytes32" else str(value) if kind == "uint64" else value
    return out


def signed(digest: bytes, key: SigningKey) -> Json:
    """Return a digest with its signature in both forms."""
    signature = key.sign_digest(digest)
    r, vs = to_compact(signature)
    return {
        "digest": to_hex(digest),
        "signer": key.address,
        "signature": to_hex(signature),
        "r": to_hex(r),
        "vs": to_hex(vs),
    }


def eip712_vectors() -> Json:
    """Every signed struct, at ordinary values and at the greatest."""
    ledger, stake = samples.LEDGER, samples.STAKE
    consumer, node, operator = samples.CONSUMER, samples.NODE, samples.OPERATOR
    offer, most, whole = samples.offer(), 2**64 - 1, Address("0x" + "ff" * 20)
    receipt_id = eip712.receipt_digest(ledger, samples.receipt())
    return {
        "chainId": ledger.chain_id,
        "ledger": ledger.contract,
        "stake": stake.contract,
        "ledgerSeparator": to_hex(ledger.separator),
        "stakeSeparator": to_hex(stake.separator),
        "offers": [rendered(offer, eip712.OFFER_TYPE) | {"hash": to_hex(eip712.offer_hash(offer))}],
        "receipts": [
            rendered(receipt, eip712.RECEIPT_TYPE)
            | {"structHash": to_hex(eip712.receipt_hash(receipt))}
            | signed(eip712.receipt_digest(ledger, receipt), node)
            for receipt in (samples.receipt(), samples.extreme_receipt())
        ],
        "consents": [
            {"account": account, "spent": str(spent)}
            | signed(eip712.consent_digest(ledger, account, spent), consumer)
            for account, spent in ((consumer.address, 2_000_000_000), (consumer.address, 0), (whole, most))
        ],
        "acknowledgements": [
            {"account": account, "epoch": str(epoch), "earned": str(earned)}
            | signed(eip712.acknowledgement_digest(ledger, account, epoch, earned), samples.COORDINATOR)
            for account, epoch, earned in ((operator.address, 7, 1_900_000_000), (whole, most, most))
        ],
        "taken": [
            {"receiptHash": to_hex(taken), "epoch": str(epoch)}
            | signed(eip712.taken_digest(ledger, taken, epoch), samples.COORDINATOR)
            for taken, epoch in ((receipt_id, 7), (ReceiptId(b"\xff" * 32), most))
        ],
        "nodeConsents": [
            {"operator": operator.address, "node": node.address}
            | signed(eip712.node_consent_digest(stake, operator.address, node.address), node)
        ],
    }


def merkle_vectors() -> Json:
    """Trees of sizes around every kind of padding, each with all of its proofs."""
    trees = []
    for count in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17):
        ids = [samples.bytes32(f"receipt {count}/{index}") for index in range(count)]
        tree = merkle.receipt_tree(ids)
        proofs = [tree.proof(index) for index in range(count)]
        trees.append(
            {
                "count": count,
                "leaves": [to_hex(receipt_id) for receipt_id in ids],
                "root": to_hex(tree.root),
                "proofs": [
                    {"index": proof.index, "siblings": [to_hex(sibling) for sibling in proof.siblings]}
                    for proof in proofs
                ],
            }
        )
    return {"empty": to_hex(merkle.EMPTY), "trees": trees}


def rows_vectors() -> Json:
    """Packed rows, as parallel arrays."""
    given = [
        rows.Row(samples.CONSUMER.address, 2_000_000_000, rows.CHARGE_HAS_CONSENT),
        rows.Row(samples.OPERATOR.address, 1_900_000_000),
        rows.Row(Address("0x" + "00" * 20), 0),
        rows.Row(Address("0x" + "ff" * 20), 2**64 - 1, 2**32 - 1),
        rows.Row(Address("0x" + "00" * 19 + "01"), 2**63, 2**31),
    ]
    return {
        "words": [to_hex(rows.pack_row(row)) for row in given],
        "accounts": [row.account for row in given],
        "amounts": [str(row.amount) for row in given],
        "flags": [row.flags for row in given],
    }


def commitments_vectors() -> Json:
    """Commitments, parameters hashes, seeds and the digest that a node signs to come in."""
    challenge = samples.challenge()
    hashes = {name: commitments.parameters_hash(given) for name, given in samples.PARAMETERS.items()}
    model_id = ModelId(samples.bytes32("model"))
    account = samples.CONSUMER.address
    return {
        "salt": to_hex(samples.SALT),
        "ids": list(samples.PROMPT_IDS),
        "promptCommitment": to_hex(commitments.prompt_commitment(samples.SALT, samples.PROMPT_IDS)),
        "outputCommitment": to_hex(commitments.output_commitment(samples.SALT, samples.PROMPT_IDS)),
        "emptyOutputCommitment": to_hex(commitments.output_commitment(samples.SALT, ())),
        "text": samples.TEXT,
        "textCommitment": to_hex(commitments.opaque_output_commitment(samples.SALT, samples.TEXT.encode())),
        "parameters": [
            {
                "name": name,
                "json": commitments.canonical_parameters(given).decode(),
                "hash": to_hex(hashes[name]),
            }
            for name, given in samples.PARAMETERS.items()
        ],
        "jobSeeds": [
            {
                "account": account,
                "modelId": to_hex(model_id),
                "parametersHash": to_hex(hashes["defaults"]),
                "seed": str(seed),
                "jobSeed": to_hex(commitments.job_seed(account, model_id, hashes["defaults"], seed)),
            }
            for seed in (0, 1, -1, 2**63 - 1, -(2**63))
        ],
        "challenge": plain(challenge),
        "hello": signed(commitments.hello_digest(challenge), samples.NODE),
        "numericsClasses": {
            name: to_hex(commitments.numerics_class_id(name)) for name in ("fp32", "bf16", "gguf-q4_1/fp32")
        },
    }


def frames_vectors() -> Json:
    """One message per type of frame, one with several, and some that a decoder must refuse."""
    packed = msgspec.msgpack.encode
    given = [*samples.handshake_frames(), *samples.job_frames()]
    several = frames.encode_frames(given)
    return {
        "frames": [
            {"frame": plain(frame), "message": to_hex(frames.encode_frames([frame]))} for frame in given
        ],
        "several": to_hex(several),
        "tolerated": [
            {"message": to_hex(packed([{"t": "draining", "new": [1]}])), "as": [{"t": "draining"}]}
        ],
        "refused": [
            {"why": why, "message": to_hex(message)}
            for why, message in (
                ("an unknown type", packed([{"t": "gossip"}])),
                ("no type", packed([{}])),
                ("not a list", packed({"t": "draining"})),
                ("a missing field", packed([{"t": "goodbye", "code": "x", "message": "y"}])),
                ("an id of 31 bytes", packed([{"t": "cancel", "job_id": bytes(31), "attempt": 0}])),
                ("a negative number", packed([{"t": "cancel", "job_id": bytes(32), "attempt": -1}])),
                ("cut short", several[:-1]),
                ("nothing", b""),
            )
        ],
    }


def epochfile_vectors() -> Json:
    """Whole files with their hashes, the roots of their receipts, and their renderings."""
    files = []
    for rows_of, receipts in (samples.epoch(), samples.empty_epoch()):
        data = b"".join(epochfile.encode_epoch(rows_of, receipts, len(receipts)))
        file = epochfile.decode_epoch(data)
        files.append(
            {
                "data": to_hex(data),
                "hash": to_hex(file.hash),
                "receiptsRoot": to_hex(merkle.receipt_tree(file.receipt_ids).root),
                "json": epochjson.to_json(file),
            }
        )
    return {"files": files}


def sampler_vectors() -> Json:
    """Philox known answers, noise words and their g, and choices from written-out logits (float32)."""
    seed = samples.bytes32("job seed")
    positions, ids = (0, 1, 255, 2**32 - 1), (0, 1, 2, 49151, 2**32 - 1)
    words = philox.noise_words(seed, [[position] for position in positions], ids)
    return {
        "philox": [
            {
                "counter": list(counter),
                "key": list(key),
                "words": [int(word) for word in philox.philox4x32(counter, key)],
            }
            for counter, key in samples.PHILOX
        ],
        "stream": {"jobSeed": to_hex(seed), "k0k1d0d1": list(philox.stream_of(seed))},
        "noise": {"positions": list(positions), "ids": list(ids), "words": words.tolist()},
        "gumbel": [
            {"word": word, "g": round(float(philox.gumbel(np.array([word]))[0]), 12)}
            for word in (0, 1, 2**31, 2**32 - 1)
        ],
        "choices": [choice_vector(*case) for case in samples.choices()],
    }


def choice_vector(
    name: str, logits: NDArray[np.float32], parameters: Parameters, generated: dict[int, int]
) -> Json:
    """Return what the sampler chooses from `logits` at the eight positions after the `generated` tokens."""
    first = sum(generated.values())
    seed = samples.bytes32(f"job seed of {name}")
    chosen = [choose(logits, parameters, seed, position, generated) for position in range(first, first + 8)]
    return {
        "name": name,
        "logits": to_hex(logits.astype("<f4").tobytes()),
        "parameters": plain(parameters),
        "jobSeed": to_hex(seed),
        "generated": [[token_id, count] for token_id, count in sorted(generated.items())],
        "firstPosition": first,
        "tokens": [choice.token_id for choice in chosen],
        "logprobs": [round(choice.logprob, 9) for choice in chosen],
    }


def plain(value: object) -> Any:
    """Return `value` as JSON can hold it, with byte strings as `0x…`."""
    match value:
        case bytes():
            return to_hex(value)
        case dict():
            return {name: plain(field) for name, field in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case msgspec.Struct():
            return plain(msgspec.to_builtins(value, builtin_types=(bytes,)))
        case _:
            return value


FILES: dict[str, Callable[[], Json]] = {
    "eip712.json": eip712_vectors,
    "merkle.json": merkle_vectors,
    "rows.json": rows_vectors,
    "commitments.json": commitments_vectors,
    "frames.json": frames_vectors,
    "sampler.json": sampler_vectors,
    "epochfile.json": epochfile_vectors,
}


def render(name: str) -> str:
    """Return the text of one file of vectors."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file."""
    DIRECTORY.mkdir(exist_ok=True)
    for name in FILES:
        (DIRECTORY / name).write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
