"""What a node says about a job, however it is signed: nothing is paid that was not streamed."""

import asyncio
import hashlib
from functools import cache
from typing import Any

import msgspec

from marketplace.domain.attempts import Answer, Attempt, Misbehaved, commitments_of, next_attempt
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.receipt_checks import BadReceipt, Seen, check_receipt
from provider.engines.base import EngineError, EngineJob
from provider.plan import Accept, Served, decide
from tallystick.models.decoding import load_detokenizer
from tallystick.models.tokenizer import BadTokenizer, ByteTokenizer
from tallystick.protocol.eip712 import BadField, sign_receipt
from tallystick.protocol.frames import AnyFrame, BadFrame, Finished, Job, Tokens, decode_frames, encode_frames
from tallystick.protocol.receipts import Finish, Receipt, receipt_charge
from tests.fuzz.driver import Parser
from tests.fuzz.mutation import Mutator, to_msgpack
from tests.support import books
from tests.support.nodes import DOMAIN, EOS, MANIFEST, MODEL_ID, Work, a_view, key_of, operator_of
from tests.unit.tallystick.models.tokenizers_for_tests import byte_fallback_blob, byte_level_blob

NODE = key_of(1)
NOW = books.NOW


@cache
def _model() -> CatalogModel:
    return CatalogModel(
        id=MODEL_ID,
        name="echo",
        manifest=MANIFEST,
        tokenizer=ByteTokenizer(),
        prompts=None,  # type: ignore[arg-type] # nothing is asked here
        admitted_at_ms=0,
    )


def an_attempt() -> Attempt:
    """Return an attempt at a job that nothing has been delivered of."""
    accepted = books.make_job("carol")
    view = a_view(NODE.address, operator_of(1))
    return next_attempt(
        accepted, Answer(), commitments_of(accepted), number=0, node=view, now_ms=NOW, block_number=100
    )


async def _nowhere(_: Any) -> None:
    return


@cache
def _honest() -> tuple[AnyFrame, ...]:
    """The frames of an honest node, as they come over the wire."""

    async def say() -> tuple[AnyFrame, ...]:
        work = Work(an_attempt().job, NODE, _nowhere)
        first = work.a_tokens_frame([*b"hello"], "hello")
        second = work.a_tokens_frame([*" wörld".encode(), EOS], " wörld")
        times = {"started_at": NOW, "finished_at": NOW + 5}
        return first, second, Finished(receipt=work.a_receipt(Finish.EOS, **times))

    return asyncio.run(say())


def a_conversation(mutator: Mutator) -> bytes:
    """Return what a node sends for a job, damaged; most receipts are signed anew over the damage."""
    frames = list(_honest())
    place = mutator.chance.randrange(len(frames))
    tree = mutator.tree_of(msgspec.msgpack.decode(encode_frames([frames[place]])))
    parts = [msgspec.msgpack.decode(encode_frames([frame]))[0] for frame in frames]
    parts[place : place + 1] = tree if isinstance(tree, list) else [tree]
    if mutator.chance.random() < 0.2:
        mutator.chance.shuffle(parts)
    return to_msgpack([_signed(part) if mutator.chance.random() < 0.8 else part for part in parts])


def _signed(part: Any) -> Any:
    try:
        receipt = msgspec.convert(part["receipt"]["receipt"], Receipt, builtin_types=(bytes,))
        signed = sign_receipt(DOMAIN, receipt, NODE)
    except (KeyError, TypeError, msgspec.ValidationError, BadField):
        return part
    return part | {"receipt": msgspec.to_builtins(signed, builtin_types=(bytes,))}


def hear(message: bytes) -> bool:
    """Listen as dispatch does. A receipt that is taken charges exactly for the tokens that were streamed."""
    attempt = an_attempt()
    try:
        for frame in decode_frames(message):
            match frame:
                case Tokens():
                    attempt.accept(frame, _model().tokenizer)
                case Finished(receipt=signed):
                    check_receipt(attempt, frame, _model(), DOMAIN, Seen(NOW + 10, 101))
                    prompt, made = len(attempt.job.prompt_ids), len(attempt.ids)
                    assert receipt_charge(signed.receipt) == 300 * (prompt + made)
                    return True
                case _:
                    pass
    except (BadFrame, Misbehaved, BadReceipt):
        return False
    return False


SERVED = Served(
    input_price=300,
    output_price=300,
    slots=4,
    running=0,
    paused=False,
    context_length=4096,  # type: ignore[arg-type]
)


def an_offer(mutator: Mutator) -> bytes:
    """Return a damaged job, as a coordinator might send it."""
    (tree,) = msgspec.msgpack.decode(encode_frames([an_attempt().job]))
    return to_msgpack([mutator.tree_of(tree)])


def weigh(message: bytes) -> bool:
    """Decide on it as an agent does: never for less than was asked."""
    try:
        (job,) = decode_frames(message)
    except BadFrame:
        return False
    if not isinstance(job, Job):
        return False
    decision = decide(job, SERVED, draining=False, known=False, max_fee_bps=2000)
    if not isinstance(decision, Accept):
        return False
    assert min(job.input_price, job.output_price) >= 300
    assert job.fee_bps <= 2000
    try:
        EngineJob.from_frame(job)
    except EngineError:
        return False
    return True


@cache
def _tokenizers() -> tuple[Any, ...]:
    return tuple(msgspec.json.decode(blob) for blob in (byte_level_blob(), byte_fallback_blob()))


def a_tokenizer(mutator: Mutator) -> bytes:
    """Return a damaged tokenizer.json."""
    return mutator.json_of(mutator.chance.choice(_tokenizers()))


def read_tokenizer(blob: bytes) -> bool:
    """Load the part that reads ids, as the coordinator does in its own process, and read with it."""

    try:
        tokenizer = load_detokenizer(hashlib.sha256(blob).hexdigest(), blob)
    except BadTokenizer:
        return False
    taken = False
    for ids in ([1, 40, 300, 329], list(range(0, 330, 7)), [2**32 - 1], []):
        try:
            tokenizer.decode(ids)
            taken = True
        except BadTokenizer:
            pass
    return taken


PARSERS = (
    Parser("answers of nodes", a_conversation, hear, 15),
    Parser("offers of jobs", an_offer, weigh, 8),
    Parser("tokenizers", a_tokenizer, read_tokenizer, 2),
)
