"""Answers over several nodes: honest parts always pass level 0 and add up, wherever the answer is cut."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.domain.attempts import (
    MAX_ALTERNATIVES,
    Answer,
    Attempt,
    Misbehaved,
    as_whole,
    commitments_of,
    first_stop,
    next_attempt,
    text_is_of_tokens,
)
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.jobs import AcceptedJob
from marketplace.domain.receipt_checks import BadReceipt, Seen, check_receipt
from provider.engines.base import EngineJob
from provider.engines.text import AnswerText
from tallystick.models.renderer import Renderer
from tallystick.models.tokenizer import ByteTokenizer, HfTokenizer, Tokenizer
from tallystick.protocol.frames import Finished, TokenLogprob, Tokens
from tallystick.protocol.ids import JobId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.markets import a_request
from tests.support.nodes import DOMAIN, EOS, MANIFEST, MODEL_ID, Work, a_view, key_of, operator_of
from tests.unit.tallystick.models.tokenizers_for_tests import byte_fallback_blob, byte_level_blob

MODEL = CatalogModel(MODEL_ID, "echo", MANIFEST, ByteTokenizer(), Renderer().of(MANIFEST), 0)
NOW = 2**45


def an_accepted_job(parameters: Parameters) -> AcceptedJob:
    request = replace(a_request(), parameters=parameters)
    price = NanoUsd(300)
    return AcceptedJob(JobId(b"j" * 32), request, b"s" * 32, b"t" * 32, price, price, 500, price, 0)


def an_attempt(job: AcceptedJob, answer: Answer, number: int = 0) -> Attempt:
    view = a_view(key_of(number + 1).address, operator_of(number + 1))
    return next_attempt(
        job, answer, commitments_of(job), number=number, node=view, now_ms=NOW, block_number=100
    )


async def _nowhere(frames: object) -> None:
    return None


def part_of(attempt: Attempt, ids: list[int], *, final: bool) -> Finished:
    """Stream `ids` into the attempt as an honest node does, and return its receipt."""
    stream = ByteTokenizer().stream(attempt.job.resume_ids)
    work = Work(attempt.job, key_of(attempt.job.attempt + 1), _nowhere)
    text = stream.push_all(ids) + (stream.finish() if final else "")
    if ids or text:
        attempt.accept(work.a_tokens_frame(ids, text))
    finish = Finish.HANDED_OVER
    if final:
        finish = Finish.EOS if ids and ids[-1] == EOS else Finish.LENGTH
    return Finished(receipt=work.a_receipt(finish, started_at=NOW, finished_at=NOW))


@settings(max_examples=200, deadline=None)
@given(
    st.text(min_size=1, max_size=40),
    st.lists(st.integers(1, 60), max_size=5),
    st.lists(st.booleans(), min_size=6),
)
def test_wherever_an_answer_is_cut_its_parts_pass_and_add_up(
    text: str, cuts: list[int], signed: list[bool]
) -> None:
    text = text.encode(errors="replace").decode()
    ids = [*text.encode(), EOS]
    job = an_accepted_job(Parameters(max_tokens=len(ids)))
    answer, billed, prompt = Answer(), 0, 0
    edges = [*sorted({cut for cut in cuts if cut < len(ids)}), len(ids)]
    for number, edge in enumerate(edges):
        attempt = an_attempt(job, answer, number)
        assert attempt.job.first_position == len(answer.ids)
        finished = part_of(attempt, ids[len(answer.ids) : edge], final=edge == len(ids))
        is_signed = signed[number] or edge == len(ids)
        if is_signed:
            check_receipt(attempt, finished, MODEL, DOMAIN, Seen(NOW, 100))
            billed += finished.receipt.receipt.output_tokens
            prompt += finished.receipt.receipt.prompt_tokens
            answer.prompt_billed = True
        answer.absorb(attempt)
        assert text_is_of_tokens(answer, MODEL)
        if edge < len(ids):
            assert as_whole(answer, job.request.parameters, MODEL, 5) is None
    assert (answer.text, answer.ids) == (text, ids)
    assert answer.text_bytes == len(text.encode())
    assert prompt == len(job.request.prompt_ids)
    unsigned = sum(
        edge - before
        for number, (before, edge) in enumerate(zip([0, *edges[:-1]], edges, strict=True))
        if not signed[number] and edge != len(ids)
    )
    assert billed == len(ids) - unsigned


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=30), st.data())
def test_a_change_to_any_delivered_id_is_noticed(raw: bytes, data: st.DataObject) -> None:
    ids = [one % 128 for one in raw]
    job = an_accepted_job(Parameters(max_tokens=len(ids)))
    attempt = an_attempt(job, Answer())
    finished = part_of(attempt, ids, final=True)
    check_receipt(attempt, finished, MODEL, DOMAIN, Seen(NOW, 100))
    place = data.draw(st.integers(0, len(ids) - 1))
    attempt.ids[place] ^= 1
    with pytest.raises(BadReceipt):
        check_receipt(attempt, finished, MODEL, DOMAIN, Seen(NOW, 100))


BLOBS = {"byte-level": byte_level_blob(), "byte-fallback": byte_fallback_blob()}
TOKENIZERS: dict[str, Tokenizer] = {kind: HfTokenizer(blob) for kind, blob in BLOBS.items()} | {
    "bytes": ByteTokenizer()
}


def drawn_until_stopped(tokenizer: Tokenizer, attempt: Attempt, ids: list[int]) -> tuple[list[int], str]:
    """Return what our engines make of `ids` that a model would draw: they end where a stop string does."""
    text = AnswerText(tokenizer, EngineJob.from_frame(attempt.job))
    said = ""
    for count, one in enumerate(ids, 1):
        said += text.push((one,))
        if text.met is not None:
            return ids[:count], said
    return ids, said


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(sorted(TOKENIZERS)),
    stop=st.sampled_from(["a", "th", "�", " ", "界"]),
)
def test_what_our_engines_make_up_to_a_stop_string_passes_and_not_one_token_more(
    data: st.DataObject, kind: str, stop: str
) -> None:
    tokenizer = TOKENIZERS[kind]
    model = replace(MODEL, tokenizer=tokenizer, manifest=msgspec.structs.replace(MANIFEST, eos_ids=()))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 2), min_size=1, max_size=30))
    reads = data.draw(st.lists(st.sampled_from([tokenizer, None]), min_size=3, max_size=3))
    job = an_accepted_job(Parameters(max_tokens=64, stop=(stop,)))
    first = an_attempt(job, Answer())
    made, text = drawn_until_stopped(tokenizer, first, ids)
    cut = data.draw(st.integers(0, len(made)))
    before, said = drawn_until_stopped(tokenizer, first, made[:cut])
    if before:
        check_receipt(
            first, signed_as_handed_over(first, before, said, reads.pop()), model, DOMAIN, Seen(NOW, 100)
        )
    answer = Answer()
    answer.absorb(first)
    if before and as_whole(answer, job.request.parameters, model, 5) is not None:
        return
    second = an_attempt(job, answer, 1)
    rest, said = drawn_until_stopped(tokenizer, second, ids[cut:])
    assert before + rest == made
    assert answer.text + said == text
    if rest:
        check_receipt(
            second, signed_as_handed_over(second, rest, said, reads.pop()), model, DOMAIN, Seen(NOW, 100)
        )
    if len(made) < len(ids):
        padded = an_attempt(job, answer, 1)
        more = signed_as_handed_over(padded, [*rest, ids[len(made)]], said, reads.pop())
        with pytest.raises(BadReceipt, match="run on after a stop string"):
            check_receipt(padded, more, model, DOMAIN, Seen(NOW, 100))


def signed_as_handed_over(
    attempt: Attempt, ids: list[int], text: str, tokenizer: Tokenizer | None
) -> Finished:
    """Stream `ids` and `text` into the attempt, which `tokenizer` reads, and return the receipt."""
    work = Work(attempt.job, key_of(attempt.job.attempt + 1), _nowhere)
    attempt.accept(work.a_tokens_frame(ids, text), tokenizer)
    return Finished(receipt=work.a_receipt(Finish.HANDED_OVER, started_at=NOW, finished_at=NOW))


@pytest.mark.parametrize(
    ("ids", "text", "stops", "expected"),
    [
        ([*b"hi", EOS], "hi", (), (Finish.EOS, "", "")),
        ([*b"hi", EOS], "h", (), (Finish.EOS, "", "i")),
        ([*b"hi"], "hi", (), None),
        ([*b"12345678"], "12345678", (), (Finish.LENGTH, "", "")),
        ([*b"one#tw"], "one", ("#t",), (Finish.STOP_STRING, "#t", "")),
        ([*b"one#tw"], "on", ("#t",), (Finish.STOP_STRING, "#t", "e")),
        ([*b"hi", EOS], "hello", (), None),
        ([*b"one#tw"], "one#", ("#t",), None),
        ([], "", (), None),
        ([999], "", (), None),
    ],
)
def test_an_answer_is_whole_when_no_token_is_missing(
    ids: list[int], text: str, stops: tuple[str, ...], expected: tuple[Finish, str, str] | None
) -> None:
    answer = Answer(ids=ids, text=text, text_bytes=len(text))
    whole = as_whole(answer, Parameters(max_tokens=8, stop=stops), MODEL, 5)
    assert expected == (whole and (whole.finish, whole.stop, whole.rest))


def test_the_stop_string_that_is_complete_first_wins_and_the_longer_of_two() -> None:
    assert first_stop("abc", ("abc", "b")) == "b"
    assert first_stop("xabc", ("bc", "abc")) == "abc"
    assert first_stop("abc", ("z", "")) == ""


def test_an_answer_with_foreign_text_cannot_go_on_elsewhere() -> None:
    assert text_is_of_tokens(Answer(ids=[*b"hi"], text="h"), MODEL)
    assert not text_is_of_tokens(Answer(ids=[*b"hi"], text="ho"), MODEL)
    assert not text_is_of_tokens(Answer(ids=[999], text=""), MODEL)
    opaque = replace(MODEL, tokenizer=None)
    assert text_is_of_tokens(Answer(), opaque)
    assert not text_is_of_tokens(Answer(text="h"), opaque)


def a_frame(attempt: Attempt, **changes: object) -> Tokens:
    fields: dict[str, object] = {
        "job_id": attempt.job.job_id,
        "attempt": 0,
        "position": 0,
        "ids": (97,),
        "text": "a",
    }
    return Tokens(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 1},
        {"ids": tuple(range(9))},
        {"ids": (), "text": ""},
        {"text": "x" * (2 * 1024 + 1)},
        {"ids": (), "text": "x" * 1025},
    ],
)
def test_frames_out_of_order_or_size_are_misbehaviour(changes: dict[str, object]) -> None:
    attempt = an_attempt(an_accepted_job(Parameters(max_tokens=8)), Answer())
    with pytest.raises(Misbehaved):
        attempt.accept(a_frame(attempt, **changes))
    assert attempt.accept(a_frame(attempt)).text == "a"


def test_what_a_node_is_refused_for_is_not_part_of_what_the_next_goes_on_from() -> None:
    job, answer = an_accepted_job(Parameters(max_tokens=5_000)), Answer()
    for number, ids in enumerate([(104, 300), (104, 105), range(4097)]):
        attempt = an_attempt(job, answer, number)
        frame = a_frame(attempt, position=2 * (number > 1), ids=tuple(ids), text="hi")
        if number == 1:
            attempt.accept(frame, MODEL.tokenizer)
        else:
            with pytest.raises(Misbehaved, match=r"an id of|in one frame"):
                attempt.accept(frame, MODEL.tokenizer)
        answer.absorb(attempt)
    assert (answer.ids, answer.text, answer.read(ByteTokenizer())) == ([104, 105], "hi", "hi")


def test_likelihoods_that_nobody_asked_for_are_dropped() -> None:
    attempt = an_attempt(an_accepted_job(Parameters(max_tokens=8)), Answer())
    assert attempt.accept(a_frame(attempt, logprobs=(TokenLogprob(0.0),))).logprobs == ()


def test_a_token_has_so_many_alternatives_at_most() -> None:
    attempt = an_attempt(an_accepted_job(Parameters(max_tokens=8)), Answer())
    attempt.job = msgspec.structs.replace(attempt.job, top_logprobs=2)
    many = TokenLogprob(0.0, tuple((97, -1.0) for _ in range(MAX_ALTERNATIVES + 1)))
    with pytest.raises(Misbehaved, match="alternatives"):
        attempt.accept(a_frame(attempt, logprobs=(many,)))
    few = TokenLogprob(0.0, many.top[1:])
    assert attempt.accept(a_frame(attempt, logprobs=(few,))).logprobs == (few,)
