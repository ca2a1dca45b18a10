"""Level 0: whether a receipt says what the coordinator saw itself. No receipt is taken without it."""

from dataclasses import dataclass

import msgspec

from marketplace.domain.attempts import Attempt, first_stop, room
from marketplace.domain.catalog import CatalogModel
from tallystick.models.reading import reader_of
from tallystick.models.tokenizer import BadTokenizer
from tallystick.protocol.commitments import NO_SKETCH, output_commitment
from tallystick.protocol.eip712 import BadField, Domain, receipt_digest
from tallystick.protocol.frames import Finished
from tallystick.protocol.ids import ReceiptId
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.receipts import Finish, Receipt


class BadReceipt(Exception):
    """The receipt contradicts what was offered or streamed; the message says where."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a node's clock and its view of the chain may be off."""

    clock_ms: int = 120_000
    blocks: int = 1_000


@dataclass(frozen=True, slots=True)
class Seen:
    """When and at which height of the chain the receipt arrived; height 0 is not known."""

    at_ms: int
    block_number: int


def check_receipt(
    attempt: Attempt,
    finished: Finished,
    model: CatalogModel,
    domain: Domain,
    seen: Seen,
    tolerance: Tolerance | None = None,
) -> ReceiptId:
    """Return the receipt's id.

    Raises BadReceipt unless its node signed it, every field is what was offered or streamed, the text is that
    of the tokens, and the end is one that could be.
    """
    # What is cheap comes first: the whole text is hashed and read for nobody who has the rest wrong.
    receipt = finished.receipt.receipt
    if receipt != (expected := _expected(attempt, receipt, model)):
        raise BadReceipt(_difference(receipt, expected))
    _check_times(attempt, receipt, seen, tolerance or Tolerance())
    receipt_id = check_signed(finished, domain)
    finish = _finish(receipt.finish)
    if model.tokenizer is None:
        _check_opaque(attempt, finish, receipt)
        _check_output(receipt, attempt.text_commitment())
    else:
        _check_end(attempt, finish, model)
        _check_output(receipt, output_commitment(attempt.job.salt, attempt.ids))
        _check_text(attempt, finish, finished.stop, model)
    return receipt_id


def check_signed(finished: Finished, domain: Domain) -> ReceiptId:
    """Return the receipt's id. Raises BadReceipt unless the node that it names has signed it."""
    receipt = finished.receipt.receipt
    try:
        receipt_id = receipt_digest(domain, receipt)
        signer = recover(receipt_id, finished.receipt.signature)
    except (BadSignature, BadField) as error:
        raise BadReceipt(str(error)) from error
    if signer != receipt.node:
        raise BadReceipt(f"signed by {signer}, not by the node")
    return receipt_id


def prompt_bound(attempt: Attempt) -> int:
    """Return the most prompt tokens that may be billed: the ids, or a token per byte where there are none."""
    return len(attempt.job.prompt_ids) or len(attempt.job.prompt_text.encode())


def _expected(attempt: Attempt, given: Receipt, model: CatalogModel) -> Receipt:
    """Return the receipt as it must be, but for the commitment to the output, which takes long to make."""
    job = attempt.job
    opaque = model.tokenizer is None
    billed = len(job.prompt_ids) if job.bill_prompt else 0
    if opaque and job.bill_prompt:
        billed = given.prompt_tokens
    return Receipt(
        job_id=job.job_id,
        attempt=job.attempt,
        offer_hash=attempt.offer_hash,
        account=job.account,
        node=attempt.node.address,
        model_id=job.model_id,
        parameters_hash=attempt.parameters_hash,
        job_seed=job.job_seed,
        prompt_commitment=attempt.prompt_commitment,
        output_commitment=given.output_commitment,
        prompt_tokens=billed,
        output_tokens=given.output_tokens if opaque else len(attempt.ids),
        first_position=job.first_position,
        finish=given.finish,
        text_bytes=attempt.text_bytes,
        sketch_root=NO_SKETCH,
        numerics_class=model.numerics_class,
        input_price=job.input_price,
        output_price=job.output_price,
        fee_bps=job.fee_bps,
        started_at=given.started_at,
        finished_at=given.finished_at,
        block_number=given.block_number,
        nonce=given.nonce,
    )


def _difference(given: Receipt, expected: Receipt) -> str:
    pairs = zip(msgspec.structs.astuple(given), msgspec.structs.astuple(expected), strict=True)
    wrong = [name for name, (a, b) in zip(Receipt.__struct_fields__, pairs, strict=True) if a != b]
    return f"{', '.join(wrong)} differ from what was offered or streamed"


def _check_output(receipt: Receipt, streamed: bytes) -> None:
    if receipt.output_commitment != streamed:
        raise BadReceipt("output_commitment differs from what was streamed")


def _finish(value: int) -> Finish:
    try:
        return Finish(value)
    except ValueError as error:
        raise BadReceipt(f"{value} is no way to finish") from error


def _check_times(attempt: Attempt, receipt: Receipt, seen: Seen, tolerance: Tolerance) -> None:
    earliest = attempt.sent_at_ms - tolerance.clock_ms
    latest = seen.at_ms + tolerance.clock_ms
    if not earliest <= receipt.started_at <= receipt.finished_at <= latest:
        raise BadReceipt(f"times {receipt.started_at}–{receipt.finished_at} are not those of this attempt")
    if attempt.sent_at_block and not (
        attempt.sent_at_block - tolerance.blocks
        <= receipt.block_number
        <= seen.block_number + tolerance.blocks
    ):
        raise BadReceipt(f"block {receipt.block_number} is far from {seen.block_number}, where the chain is")


def _check_opaque(attempt: Attempt, finish: Finish, receipt: Receipt) -> None:
    if receipt.prompt_tokens > prompt_bound(attempt):
        raise BadReceipt(f"{receipt.prompt_tokens} prompt tokens are more than the prompt's bytes")
    parameters = attempt.job.parameters
    if receipt.output_tokens > parameters.max_tokens:
        raise BadReceipt(f"{receipt.output_tokens} tokens are more than were asked for")
    unseen = _most_unseen(finish, parameters.stop)
    if receipt.output_tokens > 2 * attempt.text_bytes + unseen:
        raise BadReceipt(f"{receipt.output_tokens} tokens cannot be {attempt.text_bytes} bytes of text")


def _most_unseen(finish: Finish, stops: tuple[str, ...]) -> int:
    """Return how many tokens may have no text: an end token, and those of a stop string, which is cut off.

    None of a part that is not the end: another node goes on from one without text, and may make all that was
    asked for, so both together would cost more than was set aside.
    """
    match finish:
        case Finish.HANDED_OVER | Finish.CANCELLED:
            return 0
        case Finish.LENGTH:
            return 1
        case Finish.EOS | Finish.STOP_STRING:  # not every server says which of the two it was
            return 1 + 2 * max((len(stop.encode()) for stop in stops), default=0)


def _check_end(attempt: Attempt, finish: Finish, model: CatalogModel) -> None:
    ids, job = attempt.ids, attempt.job
    if not model.eos_ids.isdisjoint(ids[:-1]):
        raise BadReceipt("the answer runs on after its end token")
    ended = bool(ids) and ids[-1] in model.eos_ids
    length = job.first_position + len(ids)
    match finish:
        case Finish.EOS if not ended:
            raise BadReceipt("finish is eos, but the last token is not an end token")
        case Finish.LENGTH if length < room(job.parameters, model, len(job.prompt_ids)):
            raise BadReceipt(f"finish is length at {length} tokens")
        case Finish.CANCELLED if not attempt.cancelled:
            raise BadReceipt("finish is cancelled, but nobody cancelled")
        case Finish.HANDED_OVER | Finish.LENGTH if ended:
            raise BadReceipt("the answer ended with an end token, but finish is another")
        case _:
            pass


def _check_text(attempt: Attempt, finish: Finish, stop: str, model: CatalogModel) -> None:
    assert model.tokenizer is not None
    most = model.manifest.vocab_size
    if most and max(attempt.ids, default=0) >= most:
        raise BadReceipt(f"a token id is outside the vocabulary of {most}")
    try:
        reader = attempt.reader or reader_of(model.tokenizer, [*attempt.job.resume_ids, *attempt.ids])
        whole = reader.text()
    except BadTokenizer as error:
        raise BadReceipt(str(error)) from error
    given = attempt.text_before + attempt.text
    stops = attempt.job.parameters.stop
    if any(one in given for one in stops if one):
        raise BadReceipt("the text runs over a stop string")
    # A node goes on where the last characters are unfinished: what follows decides how they read.
    if attempt.ids and first_stop(whole, stops) and first_stop(reader.certain_before_last(), stops):
        raise BadReceipt("the tokens run on after a stop string")
    match finish:
        case Finish.EOS | Finish.LENGTH:
            fits = given == whole
        case Finish.STOP_STRING:
            fits = stop in stops and given + stop == whole[: len(given) + len(stop)]
        case Finish.CANCELLED | Finish.HANDED_OVER:
            fits = whole.startswith(given)
    if not fits:
        raise BadReceipt(f"the text is not that of the tokens (finish {finish.name.lower()})")
