"""What is kept of lost attempts, in bytes."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.domain import attempts
from marketplace.domain.attempts import Answer, Attempt, commitments_of, next_attempt
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.jobs import AcceptedJob
from marketplace.domain.receipt_checks import BadReceipt, Seen, check_receipt
from marketplace.services.lost import LostAttempts
from tallystick.models.renderer import Renderer
from tallystick.models.tokenizer import ByteTokenizer
from tallystick.protocol.commitments import opaque_output_commitment
from tallystick.protocol.frames import Finished, Tokens
from tallystick.protocol.ids import JobId
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters
from tallystick.protocol.receipts import Finish
from tests.support.markets import a_request
from tests.support.nodes import DOMAIN, MANIFEST, MODEL_ID, ScriptedNode, Work, a_view, key_of, operator_of

MIB = 1024**2
NOW = 2**45
OPAQUE = CatalogModel(MODEL_ID, "opaque", MANIFEST, None, Renderer().of(MANIFEST), 0)


def an_attempt(number: int, *, prompt_ids: tuple[int, ...] = ()) -> Attempt:
    request = replace(a_request(), prompt_ids=prompt_ids, parameters=Parameters(max_tokens=2**17))
    price = NanoUsd(0)
    job = AcceptedJob(
        JobId(bytes(31) + bytes([number])), request, b"s" * 32, b"t" * 32, price, price, 0, price, 0
    )
    view = a_view(key_of(1).address, operator_of(1))
    return next_attempt(job, Answer(), commitments_of(job), number=0, node=view, now_ms=NOW, block_number=100)


def with_text(attempt: Attempt, text: str) -> Attempt:
    job = attempt.job
    attempt.accept(Tokens(job_id=job.job_id, attempt=job.attempt, position=0, ids=(), text=text))
    return attempt


def remembered(lost: LostAttempts, *numbers: int) -> list[int]:
    """Return which of the attempts are there."""

    def receipt_of(number: int) -> Any:
        return Work(an_attempt(number).job, key_of(1), ScriptedNode(1).send).a_receipt(Finish.EOS).receipt

    return [number for number in numbers if lost.find(receipt_of(number)) is not None]


def test_the_oldest_are_forgotten_where_their_bytes_become_too_many() -> None:
    lost = LostAttempts(most_bytes=4 * MIB, most_bytes_each=2 * MIB)
    for number in range(5):
        lost.remember(with_text(an_attempt(number), "a" * MIB), OPAQUE)
    assert remembered(lost, *range(5)) == [2, 3, 4]
    lost.remember(with_text(an_attempt(5), "a"), OPAQUE)
    assert remembered(lost, *range(6)) == [2, 3, 4, 5]


def test_an_attempt_that_is_remembered_anew_is_counted_once() -> None:
    lost = LostAttempts(most_bytes=4 * MIB, most_bytes_each=2 * MIB)
    lost.remember(with_text(an_attempt(1), "a" * MIB), OPAQUE)
    for _ in range(8):
        lost.remember(with_text(an_attempt(2), "a" * MIB), OPAQUE)
    assert remembered(lost, 1, 2) == [1, 2]


def test_an_attempt_beyond_its_share_is_not_remembered_and_pushes_nobody_out() -> None:
    lost = LostAttempts(most_bytes=4 * MIB, most_bytes_each=2 * MIB)
    lost.remember(with_text(an_attempt(1), "hello"), OPAQUE)
    # One such character makes all the others of its text four bytes long.
    large = with_text(an_attempt(2), "\N{GRINNING FACE}" + "a" * MIB)
    assert large.kept_bytes() > 4 * MIB
    lost.remember(large, OPAQUE)
    assert remembered(lost, 1, 2) == [1]


def test_what_an_attempt_keeps_beside_its_text_counts_too() -> None:
    few = an_attempt(1, prompt_ids=(300,)).kept_bytes()
    assert an_attempt(1, prompt_ids=tuple(range(10_000))).kept_bytes() > few + 10_000 * 36
    # A node may keep the text to itself: whoever reads its ids has it all the same.
    silent = an_attempt(1, prompt_ids=(300,))
    job, tokenizer = silent.job, ByteTokenizer()
    for position in range(0, 2**16, 4096):
        frame = Tokens(job_id=job.job_id, attempt=0, position=position, ids=(65,) * 4096, text="")
        silent.accept(frame, tokenizer)
    assert silent.kept_bytes() > few + 2**16 * (36 + 1)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that are hashed."""
    lengths: list[int] = []

    def count(salt: bytes, text: bytes) -> bytes:
        lengths.append(len(text))
        return opaque_output_commitment(salt, text)

    monkeypatch.setattr(attempts, "opaque_output_commitment", count)
    return lengths


@pytest.mark.parametrize(
    "lie",
    [
        {"attempt": 7},
        {"output_tokens": 2**18},
        {"prompt_tokens": 2**20},
        {"text_bytes": 1},
        {"input_price": 1},
        {"started_at": 1},
        {"signer": key_of(2)},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_a_long_text_is_not_hashed_for_a_receipt_with_another_fault(
    lie: dict[str, Any], hashed: list[int]
) -> None:
    attempt = with_text(an_attempt(1), "a" * MIB)
    wrong = a_receipt(attempt, **lie)
    with pytest.raises(BadReceipt):
        check_receipt(attempt, wrong, OPAQUE, DOMAIN, Seen(NOW, 100))
    assert hashed == []


def test_a_long_text_is_hashed_once_however_many_receipts_come(hashed: list[int]) -> None:
    attempt = with_text(an_attempt(1), "a" * MIB)
    for _ in range(3):
        wrong = a_receipt(attempt, output_commitment=bytes(32))
        with pytest.raises(BadReceipt, match="output_commitment"):
            check_receipt(attempt, wrong, OPAQUE, DOMAIN, Seen(NOW, 100))
    right = opaque_output_commitment(attempt.job.salt, attempt.text.encode())
    check_receipt(attempt, a_receipt(attempt, output_commitment=right), OPAQUE, DOMAIN, Seen(NOW, 100))
    assert hashed == [MIB]
    old = a_receipt(with_text(attempt, "b"), output_commitment=right)
    with pytest.raises(BadReceipt, match="output_commitment"):
        check_receipt(attempt, old, OPAQUE, DOMAIN, Seen(NOW, 100))
    assert hashed == [MIB, MIB + 1]


def a_receipt(attempt: Attempt, /, **changes: Any) -> Finished:
    """Return a receipt of the attempt's node for all of its text, honest but for `changes`."""
    work = Work(attempt.job, key_of(1), ScriptedNode(1).send, text=attempt.text)
    honest = {"started_at": NOW, "finished_at": NOW, "output_tokens": 9}
    return Finished(receipt=work.a_receipt(Finish.EOS, **(honest | changes)))
