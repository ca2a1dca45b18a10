"""The objects behind the test vectors: fixed, varied, and at the edges of their types."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from tallystick.protocol import commitments, frames
from tallystick.protocol.eip712 import (
    Domain,
    consent_digest,
    offer_hash,
    receipt_digest,
    sign_receipt,
    taken_digest,
)
from tallystick.protocol.epochfile import (
    PAID_BY_TREASURY,
    ConsentSignature,
    EpochReceipt,
    EpochRows,
    RowKind,
    SetAside,
)
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.keys import SigningKey, to_compact
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Offer, Receipt
from tallystick.protocol.rows import CHARGE_HAS_CONSENT, Row


def bytes32(name: str) -> bytes:
    """Return 32 bytes that the name stands for."""
    return hashlib.sha256(f"tallystick/vectors/{name}".encode()).digest()


def address(name: str) -> Address:
    """Return an address that the name stands for."""
    return Address("0x" + bytes32(name)[:20].hex())


CONSUMER = SigningKey(bytes32("consumer key"))
NODE = SigningKey(bytes32("node key"))
OPERATOR = SigningKey(bytes32("operator key"))
COORDINATOR = SigningKey(bytes32("coordinator key"))

LEDGER = Domain(chain_id=31337, contract=address("ledger"))
STAKE = Domain(chain_id=31337, contract=address("stake"))

SALT = bytes32("salt")
PROMPT_IDS = (1, 4093, 198, 26843, 49151)
OUTPUT_IDS = (19556, 28, 905, 0, 2)
TEXT = "Grüße, 世界 🙂"

PHILOX = (
    ((0, 0, 0, 0), (0, 0)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)),
)

PARAMETERS = {
    "defaults": Parameters(),
    "everything": Parameters(
        temperature=700_000,
        top_p=900_000,
        top_k=40,
        min_p=50_000,
        presence_penalty=-500_000,
        frequency_penalty=250_000,
        logit_bias=((7, -100_000_000), (11, 1)),
        max_tokens=64,
        stop=("\n\n", 'é "quoted" \\ \u2028', "END"),
    ),
    "greedy": Parameters(temperature=0),
}


def offer() -> Offer:
    """Return an offer for a first part."""
    return Offer(
        job_id=bytes32("job"),
        attempt=0,
        prompt_commitment=commitments.prompt_commitment(SALT, PROMPT_IDS),
        parameters_hash=commitments.parameters_hash(PARAMETERS["everything"]),
        job_seed=bytes32("job seed"),
        first_position=0,
        input_price=100,
        output_price=300,
    )


def receipt() -> Receipt:
    """Return the receipt for `offer`."""
    made = offer()
    return Receipt(
        job_id=made.job_id,
        attempt=made.attempt,
        offer_hash=offer_hash(made),
        account=CONSUMER.address,
        node=NODE.address,
        model_id=ModelId(bytes32("model")),
        parameters_hash=made.parameters_hash,
        job_seed=made.job_seed,
        prompt_commitment=made.prompt_commitment,
        output_commitment=commitments.output_commitment(SALT, OUTPUT_IDS),
        prompt_tokens=len(PROMPT_IDS),
        output_tokens=len(OUTPUT_IDS),
        first_position=0,
        finish=0,
        text_bytes=17,
        sketch_root=commitments.NO_SKETCH,
        numerics_class=commitments.numerics_class_id("fp32"),
        input_price=made.input_price,
        output_price=made.output_price,
        fee_bps=500,
        started_at=1_763_726_400_000,
        finished_at=1_763_726_401_250,
        block_number=4242,
        nonce=bytes32("nonce"),
    )


def extreme_receipt() -> Receipt:
    """Return a receipt with the greatest number in every field."""
    full = b"\xff" * 32
    whole = Address("0x" + "ff" * 20)
    return Receipt(
        job_id=full,
        attempt=2**32 - 1,
        offer_hash=full,
        account=whole,
        node=NODE.address,
        model_id=full,
        parameters_hash=full,
        job_seed=full,
        prompt_commitment=full,
        output_commitment=full,
        prompt_tokens=2**32 - 1,
        output_tokens=2**32 - 1,
        first_position=2**32 - 1,
        finish=2**8 - 1,
        text_bytes=2**32 - 1,
        sketch_root=full,
        numerics_class=full,
        input_price=2**64 - 1,
        output_price=2**64 - 1,
        fee_bps=2**16 - 1,
        started_at=2**64 - 1,
        finished_at=2**64 - 1,
        block_number=2**64 - 1,
        nonce=full,
    )


def challenge() -> frames.Challenge:
    """Return what a coordinator opens a connection with."""
    return frames.Challenge(
        version=frames.PROTOCOL_VERSION,
        nonce=bytes32("challenge"),
        coordinator=COORDINATOR.address,
        chain_id=LEDGER.chain_id,
        ledger=LEDGER.contract,
        stake=STAKE.contract,
        fee_bps=500,
        software="tallystick/0.1.0",
    )


def handshake_frames() -> list[frames.AnyFrame]:
    """Return one frame of each type that concerns a connection."""
    model = frames.ModelOffer(
        name="smollm2-135m",
        model_id=bytes32("model"),
        manifest=b"{}",
        input_price=100,
        output_price=300,
        slots=8,
    )
    return [
        challenge(),
        frames.Hello(
            version=frames.PROTOCOL_VERSION,
            software="tallystick/0.1.0",
            node=NODE.address,
            operator=OPERATOR.address,
            signature=NODE.sign_digest(commitments.hello_digest(challenge())),
            models=(model,),
            region="eu",
        ),
        frames.Welcome(session=bytes32("session"), heartbeat_ms=5000, block_number=4242, epoch=7),
        frames.Goodbye(code="unstaked", message="The operator has no stake.", retry=False),
        frames.Heartbeat(at_ms=1_763_726_400_000, running=3),
        frames.Offers(models=(model, model)),
        frames.Draining(),
        frames.BlobRequest(sha256=bytes32("tokenizer")),
        frames.Blob(sha256=bytes32("tokenizer"), offset=0, total=4, data=b"abcd"),
    ]


def job_frames() -> list[frames.AnyFrame]:
    """Return one frame of each type that concerns a job."""
    made, signed = offer(), sign_receipt(LEDGER, receipt(), NODE)
    receipt_id = receipt_digest(LEDGER, signed.receipt)
    return [
        frames.Job(
            job_id=made.job_id,
            attempt=made.attempt,
            model_id=bytes32("model"),
            account=CONSUMER.address,
            prompt_ids=PROMPT_IDS,
            prompt_text=TEXT,
            salt=SALT,
            parameters=PARAMETERS["everything"],
            job_seed=made.job_seed,
            input_price=made.input_price,
            output_price=made.output_price,
            fee_bps=500,
        ),
        frames.Tokens(
            job_id=made.job_id,
            attempt=made.attempt,
            position=0,
            ids=OUTPUT_IDS,
            text=TEXT,
            logprobs=(frames.TokenLogprob(-0.5, ((19556, -0.5), (28, -1.25))),),
        ),
        frames.Finished(receipt=signed, stop="END"),
        frames.Failed(job_id=made.job_id, attempt=1, code="busy", message="All slots are taken."),
        frames.Cancel(job_id=made.job_id, attempt=1),
        frames.ReceiptTaken(
            receipt_id=receipt_id,
            epoch=7,
            signature=COORDINATOR.sign_digest(taken_digest(LEDGER, receipt_id, 7)),
        ),
        frames.ReceiptRefused(
            receipt_id=receipt_id, reason="The output commitment is not over the ids streamed."
        ),
        frames.Acknowledged(account=OPERATOR.address, epoch=7, earned=1_900_000_000, signature=bytes(65)),
    ]


def epoch() -> tuple[EpochRows, list[EpochReceipt]]:
    """Return an epoch of two chunks with one of everything."""
    spent, earned, treasury = 3_000, 2_850, address("treasury")
    r, vs = to_compact(CONSUMER.sign_digest(consent_digest(LEDGER, CONSUMER.address, spent)))
    rows = EpochRows(
        chain_id=LEDGER.chain_id,
        ledger=LEDGER.contract,
        epoch=7,
        chunks=((1, 0), (1, 2)),
        charges=(Row(treasury, 500), Row(CONSUMER.address, spent, CHARGE_HAS_CONSENT)),
        consents=(ConsentSignature(spent, r, vs),),
        payouts=(Row(OPERATOR.address, earned), Row(treasury, 650)),
        set_aside=(
            SetAside(RowKind.CHARGE, Row(address("other"), 9_000), "Leaves 4000 less than it owes: 🙁"),
        ),
    )
    receipts = [
        EpochReceipt(sign_receipt(LEDGER, given, NODE), flags)
        for given, flags in ((receipt(), 0), (extreme_receipt(), PAID_BY_TREASURY))
    ]
    return rows, sorted(receipts, key=lambda item: receipt_digest(LEDGER, item.signed.receipt))


def empty_epoch() -> tuple[EpochRows, list[EpochReceipt]]:
    """Return an epoch in which nothing happened."""
    return EpochRows(chain_id=LEDGER.chain_id, ledger=LEDGER.contract, epoch=8), []


def logits(name: str, vocabulary: int, step: int) -> NDArray[np.float32]:
    """Return logits between 0 and 16, multiples of 1/`step`: a small step makes ties."""
    stream = b"".join(bytes32(f"{name}/{index}") for index in range(vocabulary // 16 + 1))
    numbers = np.frombuffer(stream, dtype="<u2")[:vocabulary].astype(np.int64)
    return (numbers * 16 * step // 65536 / step).astype(np.float32)


def choices() -> list[tuple[str, NDArray[np.float32], Parameters, dict[int, int]]]:
    """Return (name, logits, parameters, counts of generated tokens) for the sampler."""
    masked = logits("masked", 64, 1024)
    masked[8:] = -np.inf
    return [
        ("defaults", logits("defaults", 300, 1024), Parameters(), {}),
        ("ties at the cut", logits("ties", 300, 1), Parameters(temperature=2_000_000), {}),
        ("greedy ties", logits("ties", 64, 1), Parameters(temperature=0), {}),
        ("everything", logits("everything", 64, 64), PARAMETERS["everything"], {3: 2, 9: 1, 70: 4}),
        ("top-p", logits("top-p", 64, 4), Parameters(top_p=500_000), {1: 5}),
        ("min-p", logits("min-p", 64, 4), Parameters(min_p=200_000, temperature=1_500_000), {}),
        ("masked", masked, Parameters(temperature=3_000_000), {}),
        ("one token", logits("one", 1, 4), Parameters(), {}),
    ]
