"""What an agent takes on and what it refuses, as a table."""

from typing import Any

import pytest

from provider.plan import Accept, Refuse, Served, decide
from tallystick.protocol.frames import Job
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.parameters import Parameters

SERVED = Served(
    input_price=NanoUsd(300), output_price=NanoUsd(400), slots=2, running=1, paused=False, context_length=10
)


def _job(**changes: Any) -> Job:
    fields: dict[str, Any] = {
        "job_id": b"\x01" * 32,
        "attempt": 0,
        "model_id": b"\x02" * 32,
        "account": "0x" + "03" * 20,
        "prompt_ids": (1, 2, 3),
        "prompt_text": "",
        "salt": bytes(32),
        "parameters": Parameters(),
        "job_seed": bytes(32),
        "input_price": 300,
        "output_price": 400,
        "fee_bps": 500,
    }
    return Job(**(fields | changes))


def _served(**changes: Any) -> Served:
    fields = {name: getattr(SERVED, name) for name in Served.__slots__}
    return Served(**(fields | changes))


def _decide(job: Job, served: Served | None = SERVED, **state: Any) -> Accept | Refuse:
    return decide(job, served, **({"draining": False, "known": False, "max_fee_bps": 2000} | state))


@pytest.mark.parametrize(
    ("job", "served"),
    [
        (_job(), SERVED),
        (_job(input_price=301, output_price=999), SERVED),
        (_job(fee_bps=2000), SERVED),
        (_job(resume_ids=(7, 8), first_position=2), SERVED),
        (_job(prompt_ids=tuple(range(9))), SERVED),
    ],
)
def test_a_job_on_our_terms_is_taken(job: Job, served: Served) -> None:
    assert _decide(job, served) == Accept()


@pytest.mark.parametrize(
    ("job", "served", "state", "code"),
    [
        (_job(), SERVED, {"known": True}, "replay"),
        (_job(), None, {"known": True}, "replay"),
        (_job(), SERVED, {"draining": True}, "draining"),
        (_job(), None, {}, "unknown_model"),
        (_job(), _served(paused=True), {}, "busy"),
        (_job(), _served(running=2), {}, "busy"),
        (_job(input_price=299), SERVED, {}, "price"),
        (_job(output_price=399), SERVED, {}, "price"),
        (_job(fee_bps=2001), SERVED, {}, "price"),
        (_job(resume_ids=(7, 8), first_position=1), SERVED, {}, "malformed"),
        (_job(first_position=1), SERVED, {}, "malformed"),
        (_job(prompt_ids=tuple(range(10))), SERVED, {}, "too_long"),
        (_job(prompt_ids=tuple(range(8)), resume_ids=(1, 2), first_position=2), SERVED, {}, "too_long"),
    ],
)
def test_everything_else_is_refused_with_its_reason(
    job: Job, served: Served | None, state: dict[str, Any], code: str
) -> None:
    decision = _decide(job, served, **state)
    assert isinstance(decision, Refuse)
    assert decision.code == code
    assert decision.message
